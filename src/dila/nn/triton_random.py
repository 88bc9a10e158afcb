"""Random numbers for dropout in Triton kernels: drawn again wherever they are needed, kept nowhere."""

from typing import Any, no_type_check

import triton
import triton.language as tl

from dila.shapes import Tensor

_LEVELS = 1 << 16
"""A number is dropped when its 16 random bits are below so many of these."""


@triton.jit
@no_type_check  # Triton reads the function itself: nothing may be wrapped around it
def _mixed(x):
    """An integer hash of 32 bits with little bias (Wellons 2018, https://nullprogram.com/blog/2018/07/31/)."""
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
@no_type_check
def kept_of(seed, index, dropped, kept):
    """0 at the indices that this seed drops, else ``kept``."""
    bits = _mixed(index.to(tl.uint32) ^ _mixed(tl.load(seed).to(tl.uint32)))
    return tl.where((bits >> 16).to(tl.int32) < dropped, 0.0, kept)


def dropping(seed: Tensor | None, p: float, like: Tensor) -> dict[str, Any]:
    """What a kernel that calls `kept_of` is told: seed, thresholds, and whether it drops at all."""
    dropped = round(p * _LEVELS)
    thresholds = {"dropped": dropped, "kept": _LEVELS / (_LEVELS - dropped)}
    return thresholds | {"seed": like if seed is None else seed, "drops": seed is not None}
