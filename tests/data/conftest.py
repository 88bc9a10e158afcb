"""Frames that say which one they are, for every test of a reader: number n is grey 4 * n + 8."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dila.data.clips import Clips

# Tests are imported without their folder on the path.
sys.path.append(str(Path(__file__).parent))


def _shades(count: int, first: int = 0, size: int = 32) -> torch.Tensor:
    grey = ((torch.arange(count) + first) * 4 + 8).to(torch.uint8)
    return grey[:, None, None, None].expand(count, 3, size, size).contiguous()


def _numbers(frames: torch.Tensor) -> list[int]:
    return ((frames.float().mean((1, 2, 3)) - 8) / 4).round().int().tolist()


def _check_alignment(episodes, action: Callable[[int, int], list[float]], state=None, frames: int = 4) -> int:
    """Cut every clip: pixels say which frame it is, and the action of block k must be that of its first frame.

    `action` and `state` map (episode's place, frame number in it) to what the row must hold.
    """
    clips = Clips(episodes, frames=frames)
    assert clips.dropped == {}
    firsts = [_numbers(e.read([0]))[0] for e in episodes]
    for clip in clips:
        seen = [n - firsts[clip.episode] for n in _numbers(clip.frames)]
        assert seen == clip.index.tolist() == list(range(seen[0], seen[0] + frames))
        wanted = torch.tensor([action(clip.episode, f) for f in seen[:-1]], dtype=torch.float32)
        torch.testing.assert_close(clip.columns["action"][:, 0].float(), wanted)
        if state is not None:
            wanted = torch.tensor([state(clip.episode, f) for f in seen], dtype=torch.float32)
            torch.testing.assert_close(clip.columns["state"].float(), wanted)
    return len(clips)


@pytest.fixture(scope="session")
def shades():
    """Make frames ``count 3 size size`` that are numbered from `first` on."""
    return _shades


@pytest.fixture(scope="session")
def numbers():
    """The numbers that frames show."""
    return _numbers


@pytest.fixture(scope="session")
def check_alignment():
    """Check every clip of episodes against golden actions and states."""
    return _check_alignment
