"""Random numbers for dropout in Triton kernels: drawn again wherever they are needed, kept nowhere."""

from typing import Any, no_type_check

import triton
import triton.language as tl

from dila.shapes import Tensor

_LEVELS = 1 << 16
"""A number is dropped when its 16 random bits are below so many of these."""


@triton.jit
@no_type_check  # Triton reads the function itself: nothing may be wrapped around it
def kept_of(seed, index, dropped, kept):
    """0 at the indices that this seed drops, else ``kept``.

    Two products, a shift and two sums: random numbers take as long as the attention that they fall into. Neighbours at
    any distance up to two million are as independent as coins (docs/log.md, 27 November 2026).
    """
    x = (index.to(tl.uint32) + tl.load(seed).to(tl.uint32)) * 0x69F9AE63
    x ^= x >> 13
    x *= x
    return tl.where((x >> 16).to(tl.int32) < dropped, 0.0, kept)


def dropping(seed: Tensor | None, p: float, like: Tensor) -> dict[str, Any]:
    """What a kernel that calls `kept_of` is told: seed, thresholds, and whether it drops at all."""
    dropped = round(p * _LEVELS)
    thresholds = {"dropped": dropped, "kept": _LEVELS / (_LEVELS - dropped)}
    return thresholds | {"seed": like if seed is None else seed, "drops": seed is not None}
