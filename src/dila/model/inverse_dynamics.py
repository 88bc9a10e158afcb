"""Inverse dynamics model, ds -> z: what changed between two frames (paper equation 1).

ds  B K H W Ds   change of structure, s[:, 1:] - s[:, :-1]
z   B K Dz       latent action, unbounded: its width is the bottleneck
"""

from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import nn

from dila.errors import DilaError
from dila.model.config import DiLAConfig, NoAction, WholeChange
from dila.nn.convolutions import Conv2d, Conv3d
from dila.nn.dropout import Dropout
from dila.shapes import LatentActions, Structure, Tensor

_GROUPS = 8


def inverse_dynamics(config: DiLAConfig) -> nn.Module:
    """Return the module that maps ds to z before its bottleneck."""
    return nn.Flatten(2) if isinstance(config.bottleneck, WholeChange | NoAction) else InverseDynamics(config)


class InverseDynamics(nn.Module):
    """3-D convolutions that halve the grid at each stage, then an MLP to one vector per transition.

    With ``pairwise``, kernels and group-norm statistics exclude time, so each transition is processed alone.

    Raises:
        DilaError: channels that the group norms cannot divide, or not one per stage.
    """

    def __init__(self, config: DiLAConfig):
        super().__init__()
        sizes = config.idm
        self.pairwise, self.odd = sizes.pairwise, sizes.odd
        conv = _conv_2d if sizes.pairwise else _conv_3d
        channels = sizes.channels
        if len(channels) != len(sizes.blocks):
            raise DilaError(f"idm.channels = {channels} must be as many as idm.blocks = {sizes.blocks}")
        if sizes.normalise and any(channel % _GROUPS for channel in channels):
            raise DilaError(f"idm.channels = {channels} must be multiples of {_GROUPS}, the number of norm groups")
        norm = partial(nn.GroupNorm, _GROUPS) if sizes.normalise else nn.Identity
        self.stem = nn.Sequential(conv(config.structure_dim, channels[0]), norm(channels[0]), nn.SiLU())
        self.stages, self.downs = nn.ModuleList(), nn.ModuleList()
        for dim, dim_next, depth in zip(channels, (*channels[1:], channels[-1]), sizes.blocks, strict=True):
            self.stages.append(nn.Sequential(*(_ResidualBlock(dim, conv, norm) for _ in range(depth))))
            self.downs.append(conv(dim, dim_next, stride=2))
        rows, cols = (_halved(length, len(channels)) for length in config.grid)
        self.head = nn.Sequential(
            nn.Linear(rows * cols * channels[-1], sizes.hidden),
            nn.SiLU(),
            Dropout(sizes.dropout),
            nn.Linear(sizes.hidden, config.action_dim),
        )

    def forward(self, ds: Structure) -> LatentActions:
        """Return the latent actions of the transitions, ``B K Dz``."""
        if not self.odd:
            return self._read(ds)
        there, back = self._read(torch.cat([ds, -ds])).chunk(2)
        return (there - back) / 2

    def _read(self, ds: Structure) -> LatentActions:
        x = rearrange(ds, "b k h w d -> (b k) d h w" if self.pairwise else "b k h w d -> b d k h w")
        x = self.stem(x)
        for stage, down in zip(self.stages, self.downs, strict=True):
            x = down(stage(x))
        last = "(b k) d h w -> b k (h w d)" if self.pairwise else "b d k h w -> b k (h w d)"
        return self.head(rearrange(x, last, b=ds.shape[0]))


class _ResidualBlock(nn.Module):
    def __init__(self, dim: int, conv: Callable[[int, int], nn.Module], norm: Callable[[int], nn.Module]):
        super().__init__()
        self.net = nn.Sequential(conv(dim, dim), norm(dim), nn.SiLU(), conv(dim, dim), norm(dim))
        self.activation = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.net(x))


def _conv_2d(dim_in: int, dim_out: int, stride: int = 1) -> nn.Conv2d:
    return Conv2d(dim_in, dim_out, 3, stride=stride, padding=1)


def _conv_3d(dim_in: int, dim_out: int, stride: int = 1) -> nn.Conv3d:
    return Conv3d(dim_in, dim_out, 3, stride=(1, stride, stride), padding=1)


def _halved(length: int, times: int) -> int:
    for _ in range(times):
        length = (length + 1) // 2
    return length
