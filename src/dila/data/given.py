"""Frames as a caller gives them: tensors or NumPy arrays, looked at before they are used."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dila.errors import DilaError
from dila.shapes import Tensor, UInt8


def as_frames(given: Any) -> UInt8[Tensor, "*batch T 3 Y X"] | None:
    """Frames ``T 3 Y X`` or ``B T 3 Y X`` in uint8 as a tensor; None of anything else."""
    frames = given
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        frames = torch.from_numpy(np.require(given, requirements=["C", "W"]))  # whole and writable, as torch wants it
    ours = isinstance(frames, Tensor) and frames.dtype == torch.uint8 and frames.ndim in (4, 5)
    return frames if ours and frames.shape[-3] == 3 else None


def as_film(path: Path, given: Any, fps: int | float) -> UInt8[Tensor, "T 3 Y X"]:
    """Frames that are to be written as a video.

    Raises:
        DilaError: they are no such frames, or none, or `fps` is no rate.
    """
    frames = as_frames(given)
    if frames is None or frames.ndim != 4:
        raise DilaError(
            f"{path} is written from frames in uint8 of shape T 3 Y X, a tensor or array, not {told(given)}"
        )
    if 0 in frames.shape or not 0 < fps < float("inf"):
        raise DilaError(
            f"{path} cannot be written from frames of shape {list(frames.shape)} at {fps} frames a second; give at "
            "least one, and a rate above 0"
        )
    return frames


def told(given: Any) -> str:
    """Of what kind something is that should be a tensor."""
    kind = type(given).__name__
    return f"{kind} of {given.dtype} {list(given.shape)}" if isinstance(given, Tensor | np.ndarray) else kind
