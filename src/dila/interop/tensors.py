"""Weights in safetensors files: written as float32 or float16, read strictly and always as float32."""

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
    """Write a safetensors file, in float16 if ``half``. Raises DilaError for numbers too large for float16."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if half:
        kept = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in kept.items()}
        if large := [name for name, tensor in kept.items() if tensor.isinf().any()]:
            raise DilaError(f"{', '.join(large)} contains numbers too large for float16; use half=False")
    save_file(kept, path)
    readable(path)


def load_tensors(module: Module, path: Path) -> Module:
    """Load a safetensors file into the module, strictly; frozen parameters stay frozen.

    Raises:
        DilaError: tensors are missing, unexpected, misshapen or not finite; all are named.
    """
    stored = _read_tensors(path)
    if faults := tensor_faults(stored, module.state_dict()):
        told = "; ".join(faults)
        raise DilaError(f"the tensors in {path} are damaged or do not match the config beside it; {told}")
    module.load_state_dict(stored, assign=True)
    return module


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DilaError(f"{path} is missing; copy the folder again")
    try:
        stored = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DilaError(f"{path} is damaged: {first_line(error)}; copy the folder again") from error
    return {name: tensor.float() if tensor.dtype is torch.float16 else tensor for name, tensor in stored.items()}
