"""Random numbers for dropout in Triton kernels, generated wherever they are needed instead of stored."""

from typing import Any, no_type_check

import triton
import triton.language as tl

from dila.shapes import Tensor

_LEVELS = 1 << 16
"""A number is dropped if its 16 random bits are below p times this."""


@triton.jit
@no_type_check  # or a type checker would wrap the function, whose source Triton reads
def kept_of(seed, index, dropped, kept):
    """Return 0 at the indices that this seed drops, else ``kept``.

    Two products, a shift and two sums, because random numbers take as long as the attention around them. Values at
    indices up to two million apart are statistically independent (docs/log.md, 27 November 2026).
    """
    x = (index.to(tl.uint32) + tl.load(seed).to(tl.uint32)) * 0x69F9AE63
    x ^= x >> 13
    x *= x
    return tl.where((x >> 16).to(tl.int32) < dropped, 0.0, kept)


def dropping(seed: Tensor | None, p: float, like: Tensor) -> dict[str, Any]:
    """Return the arguments of a kernel that calls `kept_of`: seed, thresholds, and whether it drops anything."""
    dropped = round(p * _LEVELS)
    thresholds = {"dropped": dropped, "kept": _LEVELS / (_LEVELS - dropped)}
    return thresholds | {"seed": like if seed is None else seed, "drops": seed is not None}
