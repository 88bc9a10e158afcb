"""Weights in safetensors files: written whole or as half, read strictly and always as float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dila.errors import DilaError, first_line
from dila.files import readable
from dila.shapes import Tensor
from dila.vision.stored import tensor_faults

Module = TypeVar("Module", bound=nn.Module)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], half: bool = False) -> None:
    """Write a safetensors file, in float16 if told. Raises DilaError for numbers that float16 cannot hold."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if half:
        kept = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
        if large := [name for name, tensor in kept.items() if tensor.isinf().any()]:
            raise DilaError(f"{', '.join(large)} has numbers too large for float16; write it with half=False")
    save_file(kept, path)
    readable(path)


def load_tensors(module: Module, path: Path) -> Module:
    """Fill the module from a safetensors file, strictly; what it froze stays frozen.

    Raises:
        DilaError: naming every tensor at fault.
    """
    stored = _read_tensors(path)
    if faults := tensor_faults(stored, module.state_dict()):
        told = "; ".join(faults)
        raise DilaError(f"{path} does not hold the tensors that the config beside it describes; {told}")
    module.load_state_dict(stored, assign=True)
    return module


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DilaError(f"{path} is missing; copy the folder anew")
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DilaError(f"{path} is damaged: {first_line(error)}; copy the folder anew") from error
    return {name: tensor.float() if tensor.dtype is torch.float16 else tensor for name, tensor in stored.items()}
