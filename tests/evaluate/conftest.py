"""A model too small and short to be any good, and half of its data to judge it on."""

import pytest

from dila.evaluate.bench import Settings, open_bench
from dila.interop.pretrained import load_pretrained, save_pretrained

SETTINGS = Settings(frames=6, clips=4, pairs=48, pictures=2, column="state", components=("agent_x",), change=True)


@pytest.fixture(scope="session")
def exported(first_look, tmp_path_factory):
    """The toy model of the quickstart without its run, which would not be judged on what it was trained on."""
    return save_pretrained(tmp_path_factory.mktemp("exported") / "toy", load_pretrained(first_look.folder / "run"))


@pytest.fixture(scope="session")
def bench(first_look, exported, tmp_path_factory):
    """The toy model on its own data, half of the episodes held out."""
    out = tmp_path_factory.mktemp("evaluated") / "pictures"
    folder = first_look.folder
    return open_bench(
        exported, str(folder / "pusht"), out, SETTINGS, device="cpu", cache_dir=folder / "features", held_out=0.5
    )


class Wide:
    """An episode that was filmed twice as wide as high; its features are the same."""

    def __init__(self, episode):
        self.episode = episode

    def __getattr__(self, name):
        return getattr(self.episode, name)

    def read(self, frames):
        return self.episode.read(frames).repeat_interleave(2, -1)


@pytest.fixture(scope="session")
def widened():
    """What makes such a one of any episode."""
    return Wide
