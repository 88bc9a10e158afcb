"""Ray Data on two processes of this machine gives what the loop gives, also when a process is killed half-way."""

import os
import pickle
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F

from dila.data import open_corpus
from dila.errors import DilaError, MissingExtra
from dila.imagine.cluster import _join, _Worker, cut_parts, each_part
from dila.imagine.encode import encode_corpus
from dila.imagine.label import label
from dila.imagine.world import World
from dila.vision import FeatureCache
from dila.vision.encoder import FrozenEncoder, Resize

# Ray warns about its own use of Python.
pytestmark = [
    pytest.mark.filterwarnings("ignore:::ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Cells(FrozenEncoder):
    """Mean colour of 4 x 4 cells."""

    name: ClassVar[str] = "cells"

    def __init__(self):
        self.statistics, self.grid, self.feature_dim = None, (4, 4), 3
        self.resize = Resize((16, 16), "bilinear", antialias=True)
        self.network = torch.nn.Identity()

    def features(self, frames):
        return F.adaptive_avg_pool2d(frames, 4).permute(0, 2, 3, 1)

    def config(self):
        return {"name": self.name}


class Dying(NamedTuple):
    """Kills its process once, in the middle of a part; what it wraps does the rest."""

    work: object
    marker: Path

    def to(self, device):
        pass

    def __call__(self, part):
        if not self.marker.exists() and part == 3:
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work(part)


class Notes(NamedTuple):
    """Writes down each part by its number, and refuses a negative one."""

    folder: Path

    def to(self, device):
        pass

    def __call__(self, part):
        if part < 0:
            raise DilaError(f"part {part} is refused")
        (self.folder / f"{part}.txt").write_text(str(os.getpid()))
        return part * part


def killing(encoder, marker, after):
    """The encoder, in a process that dies at its so manieth call, once."""

    class Killing(type(encoder)):
        calls = 0

        def encode(self, o):
            type(self).calls += 1
            if type(self).calls == after and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().encode(o)

    return Killing()


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    from ray import cloudpickle

    # Workers cannot import the modules of tests.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


def test_parts_come_in_order_and_once_though_a_worker_is_killed(cluster, tmp_path):
    counted = []
    work = Dying(Notes(tmp_path), tmp_path / "killed")
    assert each_part(work, range(8), "ray", 2, counted.append) == [n * n for n in range(8)]
    assert (tmp_path / "killed").exists()
    assert sorted(counted) == list(range(8))
    assert sorted(p.stem for p in tmp_path.glob("*.txt")) == [str(n) for n in range(8)]
    assert len({p.read_text() for p in tmp_path.glob("*.txt")}) >= 2
    assert each_part(Notes(tmp_path), range(4), "local", 1, lambda _: None) == [0, 1, 4, 9]


def test_parts_hold_whole_episodes_up_to_a_number_of_frames(fake_episode):
    def cut(*lengths, most=32):
        films = [fake_episode(torch.zeros(0), np.arange(length) / 10) for length in lengths]
        return [[len(e.times) for e in part] for part in cut_parts(films, most)]

    assert cut() == []
    assert cut(20_000) == [[20_000]]
    assert cut(4000, 1000, 1, 18_000, 5) == [[4000, 1000], [1], [18_000], [5]]
    assert cut(1, 1, 1, most=2) == [[1, 1], [1]]


def test_a_refusal_comes_back_as_its_sentence(tmp_path):
    batch = {"number": [0, 1], "part": [pickle.dumps(2), pickle.dumps(-1)]}
    told = [pickle.loads(result) for result in _Worker(Notes(tmp_path))(batch)["result"]]
    assert told == [(4, None), (None, "part -1 is refused")]


@pytest.mark.slow
def test_labels_are_those_of_the_local_engine(cluster, model, encoder, videos, tmp_path):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[type(encoder).__module__])
    (videos / "take0" / "broken.mp4").write_bytes(b"not a video")
    one = label(World(model, encoder, stride=0.1, frames=8), videos, tmp_path / "a.parquet", part=1, progress=False)
    world = World(model, killing(encoder, tmp_path / "killed", 2), stride=0.1, frames=8)
    other = label(world, videos, tmp_path / "b.parquet", part=1, engine="ray", workers=2, progress=False)
    assert (tmp_path / "killed").exists()
    assert one._replace(path=None) == other._replace(path=None)
    assert pq.read_table(one.path).equals(pq.read_table(other.path), check_metadata=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.slow
def test_encoded_features_are_those_of_the_local_engine(cluster, videos, tmp_path):
    (videos / "take0" / "broken.mp4").write_bytes(b"not a video")
    encoder = killing(Cells(), tmp_path / "killed", 2)
    done = encode_corpus(videos, encoder, tmp_path / "ray", engine="ray", workers=2, part=1, progress=False)
    assert (tmp_path / "killed").exists()
    assert (done.episodes, done.new, list(done.skipped)) == (5, 5, ["take0/broken.mp4"])
    local = encode_corpus(videos, Cells(), tmp_path / "local", progress=False)
    assert done._replace(folder=None) == local._replace(folder=None)
    episodes = open_corpus(videos).episodes
    a, b = (
        FeatureCache({"name": "cells"}, tmp_path / name, progress=False).episodes(episodes) for name in ("ray", "local")
    )
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x.read(range(len(x.times))), y.read(range(len(y.times))))


def test_encoding_goes_on_with_what_is_missing(videos, tmp_path, capsys):
    encode_corpus(videos / "take0", Cells(), tmp_path / "cache", progress=False)
    first = encode_corpus(videos / "take0", Cells(), tmp_path / "cache", progress=False)
    assert (first.new, first.episodes) == (0, 3)
    assert "caching" not in capsys.readouterr().err
    (videos / "take0" / "0.mp4").unlink()
    (videos / "take0" / "new.mp4").write_bytes((videos / "take0" / "2.mp4").read_bytes())
    assert encode_corpus(videos / "take0", Cells(), tmp_path / "cache", progress=False).new == 1
    with pytest.raises(DilaError, match="part = 0"):
        encode_corpus(videos, Cells(), tmp_path / "cache", part=0)


def test_what_is_asked_of_the_engine_is_checked(tmp_path, monkeypatch):
    with pytest.raises(DilaError, match="workers = 0"):
        each_part(Notes(tmp_path), [1], "local", 0, lambda _: None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"dila-wm\[cluster\]"):
        each_part(Notes(tmp_path), [1], "ray", 1, lambda _: None)


def test_sigterm_ends_a_process_as_it_did_before_it_joined(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    ray = SimpleNamespace(init=lambda **_: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)))
    for address in ("", "there:6379"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        _join(ray, 2)
        assert signal.getsignal(signal.SIGTERM) == before
