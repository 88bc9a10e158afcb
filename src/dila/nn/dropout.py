"""Dropout that is fast on CPUs, where PyTorch's own generates one float per number."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from dila.errors import DilaError
from dila.shapes import Tensor

_LEVELS = 1 << 15
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each number with probability ``p`` and scale the others by 1 / (1 - p).

    On a CPU, each 64-bit random number decides four numbers, with 15 bits each, and numbers are zeroed by a bitwise
    "and": a tenth of PyTorch's time, with ``p`` accurate to 2e-5. Other devices use PyTorch's dropout.
    """
    if not training or p == 0 or x.device.type != "cpu":
        return F.dropout(x, p, training)
    dropped = round(p * _LEVELS)
    return _Dropped.apply(x, _kept(x.numel(), dropped).view(x.shape), _LEVELS / (_LEVELS - dropped))


@torch.compiler.disable()
def _kept(count: int, dropped: int) -> Tensor:
    """Return 16-bit masks: no bits set in ``dropped`` of `_LEVELS` cases, else all. Seeded by PyTorch's generator."""
    seed = int(torch.randint(2**63 - 1, ()))
    draws = np.random.SFC64(seed).random_raw((count + 3) // 4)
    levels = torch.from_numpy(draws.view(np.int16)[:count])
    return levels.bitwise_right_shift_(1).add_(_LEVELS // 2 - dropped).bitwise_right_shift_(15).bitwise_not_()


class _Dropped(torch.autograd.Function):
    """Zero numbers whose mask is zero, keep those with all bits set, and scale."""

    @staticmethod
    def forward(ctx, x, kept, scale):
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return _masked(x, kept).mul_(scale)

    @staticmethod
    def backward(ctx, g):
        (kept,) = ctx.saved_tensors
        return _masked(g, kept).mul_(ctx.scale), None, None


def _masked(x: Tensor, kept: Tensor) -> Tensor:
    bits = _BITS[x.element_size()]
    return (x.view(bits) & kept.to(bits)).view(x.dtype)


class Dropout(nn.Module):
    """`dropout` as a module.

    Raises:
        DilaError: p is not at least 0 and below 1.
    """

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise DilaError(f"dropout = {p} must be at least 0 and below 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout in training."""
        return dropout(x, self.p, self.training)
