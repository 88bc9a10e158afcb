import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from torch.utils.data import DataLoader

from dila.data.clips import Clips, collate_clips
from dila.data.mixture import ATTEMPTS, Mixture, name_data
from dila.data.order import EpochSampler
from dila.data.reading import LazyColumns
from dila.errors import DilaError

# Spawned processes import this file by name.
sys.path.append(str(Path(__file__).parent))


class Numbered:
    """Frame f of an episode is filled with f; reading one named `broken` fails."""

    def __init__(self, name, length, width=1, fps=10, size=4):
        self.id, self.size = name, size
        self.times = np.arange(length) / fps
        self.columns = {"action": np.ones((length, width), np.float32)} if width else {}

    def read(self, frames):
        if "broken" in self.id:
            raise FileNotFoundError(self.id)
        picture = torch.tensor(list(frames), dtype=torch.uint8)[:, None, None, None]
        return picture.expand(-1, 3, self.size, self.size).clone()

    def fingerprint(self):
        return self.id


def clips(*episodes, **settings):
    return Clips(list(episodes), **{"frames": 3, "stride": 0.2, "size": 4} | settings)


def test_data_sets_of_other_sizes_and_rates_are_one():
    mixture = Mixture({"a": clips(Numbered("x", 9)), "b": clips(Numbered("y", 20, fps=20, size=6))})
    assert mixture.lengths == [5, 12]
    assert len(mixture) == 17
    assert [mixture.place(i) for i in (0, 4, 5, 16)] == [(0, 0), (0, 4), (1, 0), (1, 11)]
    batch = collate_clips([mixture[1], mixture[7]])
    assert batch.frames.shape == (2, 3, 3, 4, 4)
    assert batch.episode.tolist() == [0, 1]
    assert batch.index.tolist() == [[1, 3, 5], [2, 6, 10]]
    # a transition spans two raw frames here and four there
    assert batch.columns == {}
    assert mixture.dropped == {"action": "data sets differ in it: a has 2 x 2 x 1, b has 2 x 4 x 1"}
    with pytest.raises(IndexError):
        mixture[17]


def test_columns_that_all_have_alike_stay():
    mixture = Mixture({"a": clips(Numbered("x", 9)), "b": clips(Numbered("y", 9)), "c": clips(Numbered("z", 9))})
    assert mixture.column_shapes == {"action": (2, 2, 1)} == {k: tuple(v.shape) for k, v in mixture[9].columns.items()}
    assert Mixture({"a": clips(Numbered("x", 9)), "b": clips(Numbered("y", 9, width=0))}).column_shapes == {}


def test_a_clip_that_fails_makes_room_for_another_of_its_data_set():
    def make():
        several = clips(Numbered("x", 9), Numbered("broken.mp4", 9), Numbered("z", 9))
        return Mixture({"a": clips(Numbered("w", 9)), "b": several}, seed=4)

    for item in range(10, 15):
        clip = make()[item]
        assert clip.episode in (1, 3)
        assert clip.skipped[0] == f"b: broken.mp4 from frame {item - 10}: FileNotFoundError: broken.mp4"
        again = make()[item]
        assert (again.episode, again.index.tolist(), again.skipped) == (clip.episode, clip.index.tolist(), clip.skipped)
    assert len({(make()[i].episode, tuple(make()[i].index.tolist())) for i in range(10, 15)}) > 2
    assert make()[0].skipped == make()[5].skipped == ()
    batch = collate_clips([make()[5], make()[10], make()[11]])
    assert len(batch.skipped) == len(make()[10].skipped) + len(make()[11].skipped)


def no_table():
    raise DilaError("file-001.parquet is gone")


def test_so_does_one_whose_table_is_gone():
    lost = Numbered("x", 9)
    lost.columns = LazyColumns({"action": 1}, no_table)
    clip = Mixture({"a": clips(Numbered("w", 9), lost)})[6]
    assert clip.episode == 0
    assert clip.skipped[0] == "a: x from frame 1: file-001.parquet is gone"


def test_when_nothing_can_be_read_it_ends():
    lost = Mixture({"a": clips(Numbered("broken.mp4", 9))})
    with pytest.raises(DilaError, match=rf"{ATTEMPTS + 1} clips of a in a row cannot be read \(a: bro"):
        lost[0]


def test_data_sets_are_called_by_as_much_of_their_path_as_it_takes():
    assert name_data(["/d/pusht", "kitchen/"]) == ["pusht", "kitchen"]
    assert name_data(["/a/v1/videos", "/b/v1/videos"]) == ["a/v1/videos", "b/v1/videos"]
    assert name_data(["s3://x/a", "s3://y/a"]) == ["x/a", "y/a"]
    with pytest.raises(DilaError, match="d/a is given twice"):
        name_data(["d/a", "d/a"])


def two_epochs(rank, folder):
    """One of two processes: what it reads in two epochs, through loader workers, with other seeds of its own."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)
    mixture = Mixture({"a": clips(Numbered("x", 60)), "b": clips(Numbered("y", 9), Numbered("z", 11))})
    sampler = EpochSampler(mixture.lengths, 4, seed=5, rank=rank, world=2, weights=[0.6, 0.4])
    loader = DataLoader(
        mixture, batch_size=4, sampler=sampler, num_workers=2, collate_fn=collate_clips, persistent_workers=True
    )
    read = []
    for _ in range(2):
        seen = [(e, i[0]) for b in loader for e, i in zip(b.episode.tolist(), b.index.tolist(), strict=True)]
        sampler.advance(len(seen))
        read.append(seen)
    gathered = [None, None]
    distributed.all_gather_object(gathered, read)
    if rank == 0:
        torch.save(gathered, f"{folder}/read.pt")
    distributed.destroy_process_group()


def test_two_processes_with_loader_workers_share_every_epoch_without_overlap(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    multiprocessing.spawn(two_epochs, (str(tmp_path),), nprocs=2)
    one, other = torch.load(tmp_path / "read.pt")
    for mine, its in zip(one, other, strict=True):
        assert len(mine) == len(its) == 32  # 68 clips: eight batches of four in each
        assert not set(mine) & set(its)
        assert [sum(e == 0 for e, _ in part) for part in (mine, its)] == [19, 19]  # 0.6 of 32
        assert {e for e, _ in mine + its} == {0, 1, 2}
        # twelve clips of the small set, asked for 26 times
        assert {(e, i) for e, i in mine + its if e > 0} == {(1, i) for i in range(5)} | {(2, i) for i in range(7)}
    assert one[0] != one[1]
