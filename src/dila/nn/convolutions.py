"""3-tap convolutions, padded by one, for small feature maps, on which CPU libraries are slow or wrong."""

import torch.nn.functional as F
from einops import rearrange
from torch import nn

from dila.shapes import Float, Tensor

_FEW = 4
"""Maximum number of output cells for which a convolution is computed as a matrix product."""


class Conv2d(nn.Conv2d):
    """A convolution that uses only the middle column of its weights on maps one cell wide; the others meet padding.

    There, oneDNN's weight gradient is wrong in bfloat16 at stride 2: not finite, or off by more than half (torch 2.13,
    CPUs with AVX-512).
    """

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Cout Hout Wout"]:
        """Same result as ``nn.Conv2d``."""
        if x.shape[-1] > 1:
            return super().forward(x)
        return F.conv2d(x, self.weight[..., 1:2], self.bias, (self.stride[0], 1), (1, 0))


class Conv3d(nn.Conv3d):
    """A convolution that is computed as one matrix product if each frame has few output cells.

    There, a CPU's own convolution spends most time on reordering its weights and takes two to four times as long.
    """

    def forward(self, x: Float[Tensor, "B C K H W"]) -> Float[Tensor, "B Cout K Hout Wout"]:
        """Same result as ``nn.Conv3d``, for a temporal stride of 1."""
        stride = self.stride[-1]
        if x.is_cuda or x.shape[-2] * x.shape[-1] > _FEW * stride**2:
            return super().forward(x)
        windows = F.pad(x, (1,) * 6).unfold(2, 3, 1).unfold(3, 3, stride).unfold(4, 3, stride)  # B C K H W 3 3 3
        sizes = windows.shape[:1] + windows.shape[2:5]
        rows = rearrange(windows, "b c k h w i j l -> (b k h w) (c i j l)")
        out = F.linear(rows, self.weight.flatten(1), self.bias)
        return rearrange(out.view(*sizes, -1), "b k h w d -> b d k h w")
