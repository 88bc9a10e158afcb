"""Convolutions of three taps a side, padded by one, over maps of few cells, where CPU libraries are slow or wrong."""

import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dila.shapes import Float, Tensor

_FEW = 4
"""Cells of a map that a convolution gives, up to which it is computed as one product."""


class Conv2d(nn.Conv2d):
    """A convolution that over a map one cell wide reads the middle of its weights alone: the others meet padding.

    There oneDNN's gradient of the weights is wrong in bfloat16 at a stride of 2: not finite, or off by more than half
    (torch 2.13, processors with AVX-512).
    """

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Cout Hout Wout"]:
        """Convolved as ``nn.Conv2d`` does."""
        if x.shape[-1] > 1:
            return super().forward(x)
        return F.conv2d(x, self.weight[..., 1:2], self.bias, (self.stride[0], 1), (1, 0))


class Conv3d(nn.Conv3d):
    """A convolution that is one product of matrices where it gives few cells a frame.

    There a CPU's convolution spends its time on arranging its many weights: it takes two to four times as long.
    """

    def forward(self, x: Float[Tensor, "B C K H W"]) -> Float[Tensor, "B Cout K Hout Wout"]:
        """Convolved as ``nn.Conv3d`` does, without a stride in time."""
        stride = self.stride[-1]
        if x.is_cuda or x.shape[-2] * x.shape[-1] > _FEW * stride**2:
            return super().forward(x)
        windows = F.pad(x, (1,) * 6).unfold(2, 3, 1).unfold(3, 3, stride).unfold(4, 3, stride)  # B C K H W 3 3 3
        sizes = windows.shape[:1] + windows.shape[2:5]
        rows = rearrange(windows, "b c k h w i j l -> (b k h w) (c i j l)")
        out = F.linear(rows, self.weight.flatten(1), self.bias)
        return rearrange(out.view(*sizes, -1), "b k h w d -> b d k h w")
