"""Files that vanish or break while a run trains on them."""

import shutil
import signal
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from train_world import after, small_run, stop_at, write_corpus

from dila.errors import DilaError
from dila.interop.pretrained import load_pretrained
from dila.train.checkpoint import newest
from dila.train.faults import LostWorker, with_workers
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import OneStep
from dila.train.register import REGISTER
from dila.train.run import Stage

RUN = small_run(cache=False, tolerate=0.6, stages=(Stage(OneStep(), steps=6),), log_every=2)


@pytest.fixture
def fragile(tmp_path):
    """Make a corpus of its own, for a test to break."""
    return lambda name: write_corpus(tmp_path / name)


def trained_on(out):
    rows = pq.read_table(out / REGISTER).to_pylist()
    return [row["episode"] for row in rows if row["split"] == "train"]


def lose(data, *names):
    for name in names:
        shutil.rmtree(data / name)


def go(run, data, out):
    return train(run, data, out, progress=False)


def test_a_file_that_vanishes_is_skipped_counted_and_listed_and_resuming_stays_exact(fragile, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    data = fragile("a")
    with monkeypatch.context() as patch:
        after(patch, 2, lambda: lose(data, trained_on(whole)[1]))
        end = go(RUN, data, whole)
    steps = [r for r in read_log(whole) if r["kind"] == "train"]
    assert steps[0]["skipped_clips"] == 0 < steps[-1]["skipped_clips"]
    listed = [clip for r in read_log(whole) if r["kind"] == "skipped" for clip in r["clips"]]
    assert len(listed) == steps[-1]["skipped_clips"]
    assert all(clip.startswith(f"a: {trained_on(whole)[1]} from frame ") for clip in listed)

    data = fragile("b")
    with monkeypatch.context() as patch:
        after(patch, 2, lambda: lose(data, trained_on(broken)[1]))
        stop_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit):
            go(RUN, data, broken)
    assert newest(broken).name == "step_0000003"
    again = go(RUN, data, broken)

    def numbers(out):
        told = {"clips_per_second", "clips"}
        return [{key: value for key, value in r.items() if key not in told} for r in read_log(out)]

    assert numbers(broken) == numbers(whole)
    one, other = (load_pretrained(x).model.state_dict() for x in (end, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_too_many_lost_files_end_the_run_in_one_sentence(fragile, tmp_path, monkeypatch):
    data, out = fragile("a"), tmp_path / "out"
    after(monkeypatch, 1, lambda: lose(data, *trained_on(out)[1:]))
    run = small_run(cache=False, log_every=1, stages=(Stage(OneStep(), steps=30),))
    with pytest.raises(
        DilaError, match=r"of \d+ clips cannot be read, more than tolerate = 0\.1 allows; the last: a: e"
    ):
        go(run, data, out)


@pytest.mark.parametrize("workers", [0, 1])
def test_when_all_is_lost_the_sentence_comes_from_any_process(fragile, tmp_path, monkeypatch, workers):
    data, out = fragile("a"), tmp_path / "out"
    after(monkeypatch, 1, lambda: lose(data, *trained_on(out)))
    run = small_run(cache=False, workers=workers, stages=(Stage(OneStep(), steps=30),))
    with pytest.raises(DilaError) as told:
        go(run, data, out)
    assert str(told.value).startswith("21 clips of a in a row cannot be read (a: episode_")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("cache", [False, True])
def test_other_pictures_under_the_same_names_are_not_gone_on_with(fragile, tmp_path, monkeypatch, cache):
    data, out, run = fragile("a"), tmp_path / "out", replace(RUN, cache=cache, tolerate=0.0)

    def going():
        return train(run, data, out, cache_dir=tmp_path / "features", progress=False)

    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit):
            going()
    changed = data / trained_on(out)[1]
    pictures = {path: path.read_bytes() for path in changed.glob("*.png")}
    for path in pictures:
        Image.new("RGB", (16, 16), "blue").save(path)
    with pytest.raises(DilaError, match=rf"1 of \d are missing or changed, the first {changed.name}, more than"):
        going()
    for path, content in pictures.items():
        path.write_bytes(content)
    assert going().name == "step_0000006"


def test_a_run_that_lost_too_much_while_it_stood_still_is_not_resumed(fragile, tmp_path, monkeypatch):
    data, out = fragile("a"), tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit):
            go(RUN, data, out)
    lost = trained_on(out)[1:]
    lose(data, *lost)
    told = rf"{len(lost)} of {len(lost) + 1} are missing or changed, the first {lost[0]}, more than"
    with pytest.raises(DilaError, match=told):
        go(RUN, data, out)
    shutil.rmtree(data)
    data = fragile("a")
    shutil.copytree(data / "episode_0", data / "episode_9")
    with pytest.raises(DilaError, match="a has 1 episodes that the run was not started with, the first episode_9"):
        go(RUN, data, out)
    (out / REGISTER).unlink()
    with pytest.raises(DilaError, match=r"episodes\.parquet is missing"):
        go(RUN, data, out)


def test_cached_features_outlive_their_videos_and_pictures_do_without(fragile, tmp_path, monkeypatch):
    data, out = fragile("a"), tmp_path / "out"
    after(monkeypatch, 1, lambda: shutil.rmtree(data))
    run = small_run(stages=(Stage(OneStep(), steps=4),))
    train(run, data, out, cache_dir=tmp_path / "cache", progress=False)
    assert [r["skipped_clips"] for r in read_log(out) if r["kind"] == "train"] == [0] * 4


@pytest.mark.parametrize("error", [
    ConnectionResetError(104, "Connection reset by peer"), EOFError(), RuntimeError("DataLoader worker (pid 7) died")
])  # fmt: skip
def test_however_torch_notices_a_dead_worker_it_is_one_error(error):
    with pytest.raises(LostWorker, match="a data worker process died"), with_workers():
        raise error


@pytest.mark.parametrize(
    "error", [ConnectionError("Caught ConnectionError in DataLoader worker process 0."), RuntimeError()]
)
def test_an_error_in_a_live_worker_stays_what_it_is(error):
    with pytest.raises(type(error)) as raised, with_workers():
        raise error
    assert raised.value is error
