"""Reading goes on for ever in the memory that it began with."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dila.data import Clips, Mixture, fast_video, open_corpus, write_video

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc to ask")


def held() -> float:
    """Megabytes of this process that no file backs."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


def growth(clips: Mixture, count: int, first: int) -> float:
    """Megabytes from one clip to another, of so many in random order."""
    order = np.random.default_rng(0).integers(0, len(clips), count).tolist()
    before = 0.0
    for place, item in enumerate(order):
        if place == first:
            before = held()
        clips[item]
    return held() - before


@pytest.fixture
def folder(tmp_path):
    noise = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    for number in range(40):
        write_video(tmp_path / f"{number}.mp4", noise.roll(number, 0), 10)
    return tmp_path


def test_memory_does_not_grow_over_10000_clips_of_pictures(tmp_path):
    for f in range(30):
        Image.fromarray(np.full((16, 16, 3), f * 8, np.uint8)).save(tmp_path / f"{f:02d}.png")
    assert growth(Mixture({"x": Clips(open_corpus(tmp_path).episodes, 2)}), 11_000, 1_000) < 4


def test_memory_does_not_grow_over_a_thousand_clips_of_video(folder, monkeypatch):
    monkeypatch.setattr(fast_video, "_torchcodec", lambda: None)
    assert growth(Mixture({"x": Clips(open_corpus(folder).episodes, 2)}), 1_400, 400) < 4


@pytest.mark.slow
@pytest.mark.parametrize(("fast", "limit"), [(False, 6), (True, 20)])  # torchcodec takes about 1 KB a clip, for good
def test_memory_does_not_grow_over_10000_clips_of_video(folder, monkeypatch, fast, limit):
    if not fast:
        monkeypatch.setattr(fast_video, "_torchcodec", lambda: None)
    assert growth(Mixture({"x": Clips(open_corpus(folder).episodes, 2)}), 12_000, 2_000) < limit
