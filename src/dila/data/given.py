"""Frames as a caller gives them: tensors or NumPy arrays, looked at before they are used."""

from typing import Any

import numpy as np
import torch

from dila.shapes import Tensor, UInt8


def as_frames(given: Any) -> UInt8[Tensor, "*batch T 3 Y X"] | None:
    """Frames ``T 3 Y X`` or ``B T 3 Y X`` in uint8 as a tensor; None of anything else."""
    frames = given
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        frames = torch.from_numpy(np.require(given, requirements=["C", "W"]))  # whole and writable, as torch wants it
    ours = isinstance(frames, Tensor) and frames.dtype == torch.uint8 and frames.ndim in (4, 5)
    return frames if ours and frames.shape[-3] == 3 else None


def told(given: Any) -> str:
    """Of what kind something is that should be a tensor."""
    kind = type(given).__name__
    return f"{kind} of {given.dtype} {list(given.shape)}" if isinstance(given, Tensor | np.ndarray) else kind
