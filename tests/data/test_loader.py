"""Batches from worker processes are those of the clips, and stay so for as long as anybody holds them."""

import gc
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field, replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from dila.data import fast_video, slots
from dila.data import loader as loaders
from dila.data.clips import Clips, collate_clips
from dila.data.corpus import open_corpus
from dila.data.loader import load_clips
from dila.data.mixture import Mixture
from dila.data.video import write_video
from dila.errors import DilaError


@dataclass(frozen=True, eq=False)
class Features:
    """Frame n is n everywhere."""

    id: str
    count: int
    columns: dict = field(default_factory=dict)

    @property
    def times(self):
        return np.arange(self.count) / 10

    def read(self, frames):
        return torch.tensor(list(frames), dtype=torch.float32)[:, None, None, None].expand(-1, 2, 2, 5)

    def fingerprint(self):
        return self.id


@pytest.fixture(autouse=True)
def without_torchcodec(monkeypatch):
    """Whose import takes seconds, in every worker that meets a file that does not decode."""
    monkeypatch.setattr(fast_video, "_torchcodec", lambda: None)


@pytest.fixture
def folder(tmp_path, shades):
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", shades(16, number, size=48), 10)
    return tmp_path


def clips_of(folder):
    return Clips([with_columns(episode) for episode in open_corpus(folder).episodes], 4)


def with_columns(episode):
    rows = np.arange(len(episode.times) * 2, dtype=np.float32).reshape(-1, 2)
    return replace(episode, columns={"action": rows, "done": rows[:, :1] > 5})


def same(one, other):
    assert torch.equal(one.frames, other.frames)
    assert one.frames.stride() == other.frames.stride()
    assert torch.equal(one.episode, other.episode)
    assert torch.equal(one.index, other.index)
    assert one.columns.keys() == other.columns.keys()
    assert all(torch.equal(one.columns[name], other.columns[name]) for name in one.columns)
    assert all(one.columns[name].dtype == other.columns[name].dtype for name in one.columns)
    assert one.skipped == other.skipped


def parts(count, batch):
    return [range(start, min(start + batch, count)) for start in range(0, count, batch)]


@pytest.mark.parametrize(
    ("workers", "context"), [(0, None), (2, "fork"), pytest.param(1, "spawn", marks=pytest.mark.slow)]
)
def test_batches_are_the_clips_in_their_order(folder, workers, context):
    clips = Mixture({"videos": clips_of(folder)})
    loader = load_clips(clips, 6, workers=workers, context=context)
    for _ in range(1 if context == "spawn" else 2):  # epochs
        batches = list(loader)  # all held at once, more than there are slots
        assert len(batches) == 9
        for batch, part in zip(batches, parts(len(clips), 6), strict=True):
            same(batch, collate_clips([clips[i] for i in part]))


@pytest.mark.parametrize("workers", [0, 2])
def test_features_and_images_too(tmp_path, workers):
    for f in range(12):
        Image.fromarray(np.full((20, 24, 3), f * 20, np.uint8)).save(tmp_path / f"{f:02d}.png")
    for clips in (Clips([Features("a", 12)], 3), Clips(open_corpus(tmp_path).episodes, 3)):
        for batch, part in zip(load_clips(clips, 4, workers=workers), parts(10, 4), strict=True):
            same(batch, collate_clips([clips[i] for i in part]))


class Remembering:
    """An episode of the user's own, which reads no frames twice."""

    def __init__(self, episode):
        self.episode, self.kept = episode, {}
        self.id, self.times, self.columns = episode.id, episode.times, episode.columns
        self.fingerprint = episode.fingerprint

    def read(self, frames):
        if tuple(frames) not in self.kept:
            self.kept[tuple(frames)] = self.episode.read(frames)
        return self.kept[tuple(frames)]


class RememberingClips(Clips):
    """The same, of whole clips."""

    def __getitem__(self, item):
        self.kept = getattr(self, "kept", {})
        if item not in self.kept:
            self.kept[item] = super().__getitem__(item)
        return self.kept[item]


def test_what_a_reader_of_the_users_own_remembers_stays_its_own(folder):
    plain = clips_of(folder)
    for clips in (Clips([Remembering(episode) for episode in plain.episodes], 4), RememberingClips(plain.episodes, 4)):
        loader = load_clips(clips, 3, sampler=range(24), workers=1, context="fork")
        for _ in range(3):  # epochs
            for batch, part in zip(loader, parts(24, 3), strict=True):
                same(batch, collate_clips([plain[i] for i in part]))


def test_what_is_held_is_never_written_over(folder):
    clips = clips_of(folder)
    loader = load_clips(clips, 4, workers=1, context="fork")
    held, wanted = [], []
    for number, batch in enumerate(loader):
        frames = batch.frames
        keep = (frames, frames[1:, 2], frames[1:].float(), frames[0, 0].numpy(), None)[number % 5]
        held.append(keep)
        wanted.append(None if keep is None else torch.as_tensor(keep).clone())
        del batch, frames, keep
    for _ in loader:  # another round over the same memory
        pass
    for keep, told in zip(held, wanted, strict=True):
        assert keep is None or torch.equal(torch.as_tensor(keep), told)


def test_memory_is_used_again(folder):
    loader = load_clips(clips_of(folder), 4, workers=2, context="fork")
    places = [batch.frames.data_ptr() for _ in range(3) for batch in loader]
    assert len(places) == 39
    assert len(set(places)) == len(loader.dataset.slots.mapped) <= 8  # two ahead and one in hand, of each worker, or so


def test_memory_goes_with_the_loader(folder):
    def mapped():
        return sum("torch_" in line for line in Path("/proc/self/maps").read_text().splitlines())

    if not Path("/proc/self/maps").exists():
        pytest.skip("there is no /proc to ask")
    before = mapped()
    loader = load_clips(clips_of(folder), 4, workers=1, context="fork")
    last = [batch.frames for batch in loader][-1]
    assert mapped() > before
    told = last.clone()
    del loader
    gc.collect()
    assert torch.equal(last, told)
    del last
    gc.collect()
    assert mapped() == before


def in_a_worker(monkeypatch):
    """As if this process were one."""
    monkeypatch.setattr(loaders, "get_worker_info", lambda: SimpleNamespace(id=0))


def test_frames_are_decoded_where_they_are_handed_over(folder, monkeypatch):
    in_a_worker(monkeypatch)
    copied, real = [], loaders._put

    def watched(clips, places):
        copied.append([place.data_ptr() != clip.data_ptr() for place, clip in zip(places, clips, strict=True)])
        real(clips, places)

    monkeypatch.setattr(loaders, "_put", watched)
    batches = load_clips(clips_of(folder), 3).dataset
    for _ in range(2):
        batches.__getitems__([0, 20, 40])
    assert copied == [[True] * 3, [False] * 3]  # of the first nobody knows how large it will be


def test_a_worker_that_starts_anew_has_the_slots_of_its_loader(folder, monkeypatch):
    clips = clips_of(folder)
    loader = load_clips(clips, 4)
    in_a_worker(monkeypatch)
    anew = pickle.loads(ForkingPickler.dumps(loader.dataset))
    for items in ([0, 1, 2], [3, 4, 5]):
        same(pickle.loads(ForkingPickler.dumps(anew.__getitems__(items))), collate_clips([clips[i] for i in items]))
    assert len(loader.dataset.slots.mapped) == len(anew.slots.made) == 1


def test_a_batch_that_fails_gives_its_memory_back(folder, monkeypatch):
    in_a_worker(monkeypatch)
    batches = load_clips(clips_of(folder), 3).dataset
    parcel = batches.__getitems__([0, 1, 2])
    parcel.slot.in_use = False
    (folder / "2.mp4").unlink()
    with pytest.raises(DilaError, match=r"2\.mp4"):
        batches.__getitems__([0, 1, 30])
    assert [slot.in_use for slot in batches.slots.made] == [False]


def test_a_stand_in_is_not_mistaken_for_what_failed_before_it(folder):
    mixture = Mixture({"videos": clips_of(folder)})
    whole = load_clips(mixture, 4, workers=1, context="fork")
    data = (folder / "2.mp4").read_bytes()
    (folder / "2.mp4").write_bytes(data[: len(data) // 2])
    seen = 0
    for batch, part in zip(whole, parts(len(mixture), 4), strict=True):
        same(batch, collate_clips([mixture[i] for i in part]))
        seen += len(batch.skipped)
    assert seen >= 13


def test_sizes_may_change_from_batch_to_batch_and_not_within_one(tmp_path, shades, monkeypatch):
    for number, size in enumerate((32, 64, 48)):
        write_video(tmp_path / f"{number}.mp4", shades(11, number, size=size), 10)
    clips = Clips(open_corpus(tmp_path).episodes, 4)  # eight each
    loader = load_clips(clips, 4, sampler=[0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19] * 3, workers=1, context="fork")
    for batch, first in zip(loader, [0, 8, 16] * 3, strict=True):
        same(batch, collate_clips([clips[first + i] for i in range(4)]))
        del batch
    assert len(loader.dataset.slots.mapped) <= 4
    in_a_worker(monkeypatch)
    batches = load_clips(clips, 2).dataset
    batches.__getitems__([0, 1]).slot.in_use = False
    with pytest.raises(DilaError, match="do not stack"):
        batches.__getitems__([0, 8])
    assert [slot.in_use for slot in batches.slots.made] == [False]


WORKER_DIES = """
import os, signal, sys
from dila.data import Clips, load_clips, open_corpus
loader = load_clips(Clips(open_corpus(sys.argv[1]).episodes, 4), 2, workers=1, context="fork")
batches = iter(loader)
for _ in range(6):  # until what it sends first has arrived, over a connection that would break
    first = next(batches).frames
told = first.clone()
try:
    os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
    list(batches)
except RuntimeError as error:
    print("told:", error, (first == told).all(), flush=True)
os._exit(0)
"""


def test_a_worker_that_dies_is_told_and_takes_no_batch_with_it(folder):
    """In a process of its own: torch raises wherever that happens to be when a child dies, more than once."""
    done = subprocess.run([sys.executable, "-c", WORKER_DIES, folder], capture_output=True, text=True, timeout=60)
    assert "told: DataLoader worker" in done.stdout
    assert "tensor(True)" in done.stdout


def test_a_forked_copy_of_a_batch_gives_nothing_back(monkeypatch):
    slot = slots.Slot(0, 64)
    memory = slot.shared.numpy()
    slots._give_back(memory, os.getpid() + 1)
    assert slot.in_use
    slots._give_back(memory, os.getpid())
    assert not slot.in_use


def test_the_clips_are_read_by_the_worker(folder):
    seen = []

    class Watching(Clips):
        def __getitem__(self, item):
            seen.append(item)
            return super().__getitem__(item)

    next(iter(load_clips(Watching(open_corpus(folder).episodes, 4), 2, workers=1, context="fork")))
    assert seen == []
    assert get_worker_info() is None
