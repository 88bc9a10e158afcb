from dataclasses import replace

import pytest
import torch
from einops import reduce

from dila.imagine.world import World
from dila.planning.dynamics import Imagination


class BlockMean:
    """Fake encoder that counts how many frames it read: the mean colour of each cell, four times over."""

    grid = (4, 4)
    feature_dim = 12

    def __init__(self):
        self.frames = 0

    def encode(self, o):
        x = o.float() / 255 if o.dtype == torch.uint8 else o
        self.frames += x.shape[0] * x.shape[1]
        e = reduce(x, "b t c (h p) (w q) -> b t h w c", "mean", h=4, w=4)
        return e.repeat(1, 1, 1, 1, 4) - 0.5

    def config(self):
        return {"name": "block-mean"}


class CellColour:
    """Fake decoder, the inverse of `BlockMean`, that counts what it drew."""

    def __init__(self):
        self.frames = 0

    def decode(self, e):
        self.frames += e.shape[0] * e.shape[1]
        x = (e[..., :3] + 0.5).clamp(0, 1).movedim(-1, 2)
        return x.repeat_interleave(8, -1).repeat_interleave(8, -2)

    def config(self):
        return {"name": "cell-colour"}


@pytest.fixture
def world(small_config, awake):
    model = awake(replace(small_config, grid=(4, 4), feature_dim=12, real_action_dim=3))
    return World(model, BlockMean(), CellColour(), stride=0.2, frames=6)


@pytest.fixture
def imagination(world):
    return Imagination(world)


@pytest.fixture
def pictures():
    """Make noise ``B T 3 16 16``."""
    return lambda frames=2, batch=2: torch.randint(0, 256, (batch, frames, 3, 16, 16), dtype=torch.uint8)
