from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from einops import reduce

from dila.data import write_video


class BlockMean:
    """Fake encoder: the mean colour of each cell, four times over; exact, and quick."""

    grid = (4, 4)
    feature_dim = 12

    def encode(self, o):
        x = o.float() / 255 if o.dtype == torch.uint8 else o
        e = reduce(x, "b t c (h p) (w q) -> b t h w c", "mean", h=4, w=4)
        return e.repeat(1, 1, 1, 1, 4) - 0.5

    def config(self):
        return {"name": "block-mean"}


class CellColour:
    """Fake decoder, the inverse of `BlockMean`: each cell 8 x 8 pixels of its colour."""

    def decode(self, e):
        x = (e[..., :3] + 0.5).clamp(0, 1).movedim(-1, 2)
        return x.repeat_interleave(8, -1).repeat_interleave(8, -2)

    def config(self):
        return {"name": "cell-colour"}


class Shift:
    """A model that is all knowledge: z is the mean change of the first channels, a step adds it to the whole frame."""

    def infer(self, e):
        return (e[:, 1:] - e[:, :-1]).mean((2, 3))[..., :3]

    def start(self, e):
        return e[:, -1]

    def step(self, state, z):
        state = state + z.repeat(1, 4)[:, None, None]
        return state, state


@dataclass
class FakeEpisode:
    frames: torch.Tensor
    times: np.ndarray
    id: str = "fake.mp4"
    columns: dict = field(default_factory=dict)

    def read(self, frames):
        return self.frames[list(frames)]

    def fingerprint(self):
        return "fake"


@pytest.fixture
def model(small_config, awake):
    return awake(replace(small_config, grid=(4, 4), feature_dim=12, action_dim=6, real_action_dim=None))


@pytest.fixture
def encoder():
    return BlockMean()


@pytest.fixture
def decoder():
    return CellColour()


@pytest.fixture
def shift():
    return Shift()


@pytest.fixture
def fake_episode():
    return FakeEpisode


def moving_frames(length, seed=0, size=16):
    """Smooth random motion: neighbouring frames are alike, distant ones not."""
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(length, 3, 4, 4, generator=generator).cumsum(0) * 12 + 128
    return walk.clamp(0, 255).byte().repeat_interleave(size // 4, -1).repeat_interleave(size // 4, -2)


@pytest.fixture
def frames_of():
    return moving_frames


@pytest.fixture
def videos(tmp_path):
    """Five videos of 10 frames a second in two folders, of several lengths."""
    folder = tmp_path / "videos"
    for number, length in enumerate([9, 23, 40, 8, 17]):
        write_video(folder / f"take{number % 2}" / f"{number}.mp4", moving_frames(length, number, 32), 10)
    return folder
