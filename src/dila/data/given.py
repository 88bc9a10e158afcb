"""Check frames that a caller passes as tensors or NumPy arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dila.errors import DilaError
from dila.shapes import Tensor, UInt8


def as_frames(given: Any) -> UInt8[Tensor, "*batch T 3 Y X"] | None:
    """Return uint8 frames ``T 3 Y X`` or ``B T 3 Y X`` as a tensor; None for anything else."""
    frames = given
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        frames = torch.from_numpy(np.require(given, requirements=["C", "W"]))  # from_numpy needs contiguous, writable
    ours = isinstance(frames, Tensor) and frames.dtype == torch.uint8 and frames.ndim in (4, 5)
    return frames if ours and frames.shape[-3] == 3 else None


def as_film(path: Path, given: Any, fps: int | float) -> UInt8[Tensor, "T 3 Y X"]:
    """Return frames to be written as a video, as a tensor.

    Raises:
        DilaError: they are not uint8 frames ``T 3 Y X``, are empty, or `fps` is not a positive number.
    """
    frames = as_frames(given)
    if frames is None or frames.ndim != 4:
        raise DilaError(
            f"{path} cannot be written from {told(given)}; give uint8 frames of shape T 3 Y X, a tensor or an array"
        )
    if 0 in frames.shape or not 0 < fps < float("inf"):
        raise DilaError(
            f"{path} cannot be written from frames of shape {list(frames.shape)} at {fps} frames a second; give at "
            "least one frame and a rate above 0"
        )
    return frames


def told(given: Any) -> str:
    """Describe the type, dtype and shape of an argument for an error message."""
    kind = type(given).__name__
    return f"{kind} of {given.dtype} {list(given.shape)}" if isinstance(given, Tensor | np.ndarray) else kind
