import os
import shutil

import numpy as np
import pytest
import torch

from dila.data import open_corpus, probed, write_video
from dila.data.video import VideoInfo

COUNT = 20


@pytest.fixture
def folder(tmp_path, monkeypatch, shades):
    """Videos of all kinds of containers; the cache folder lies beside them."""
    monkeypatch.setenv("DILA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "videos" / "ü").mkdir(parents=True)
    write_video(tmp_path / "first.mp4", shades(12), 10)
    write_video(tmp_path / "first.gif", shades(5), 10)
    for number in range(COUNT - 1):
        shutil.copy(tmp_path / "first.mp4", tmp_path / "videos" / "ü" / f"{number}.mp4")
    shutil.move(tmp_path / "first.gif", tmp_path / "videos" / "a.gif")
    return tmp_path / "videos"


@pytest.fixture
def asked(monkeypatch):
    """The files that were probed."""
    paths, real = [], probed.probe_video
    monkeypatch.setattr(probed, "probe_video", lambda path: paths.append(path) or real(path))
    return paths


def assert_same(one: VideoInfo, other: VideoInfo):
    for name in ("times", "pts", "keyframes", "seeks"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    assert (one.size, one.tick) == (other.size, other.tick)
    assert (one.packets is None) == (other.packets is None)
    if one.packets:
        for name in ("places", "turns", "offsets", "sizes"):
            np.testing.assert_array_equal(getattr(one.packets, name), getattr(other.packets, name))
        rest = ("codec", "extradata", "colours", "stamp")
        assert [getattr(one.packets, n) for n in rest] == [getattr(other.packets, n) for n in rest]


def test_a_second_opening_probes_nothing_and_finds_the_same(folder, asked, numbers):
    first = open_corpus(folder)
    assert len(asked) == COUNT
    second = open_corpus(folder)
    assert len(asked) == COUNT
    assert [e.id for e in first.episodes] == [e.id for e in second.episodes]
    for one, other in zip(first.episodes, second.episodes, strict=True):
        assert_same(one.info, other.info)
    assert numbers(second.episodes[-1].read([3, 7])) == [3, 7]
    (file,) = (folder.parent / "cache" / "probed").iterdir()
    assert file.suffix == ".parquet"
    np.testing.assert_allclose(open_corpus(folder, fps=5).episodes[-1].times, np.arange(12) / 5)
    assert len(asked) == COUNT


def test_a_file_that_was_replaced_is_probed_again(folder, asked, shades, numbers):
    open_corpus(folder)
    del asked[:]
    path = folder / "ü" / "3.mp4"
    before = path.stat()
    write_video(path, shades(9, first=20), 10)
    (folder / "ü" / "4.mp4").unlink()
    corpus = open_corpus(folder)
    assert asked == [path]
    (episode,) = [e for e in corpus.episodes if e.id == "ü/3.mp4"]
    assert (len(episode.times), numbers(episode.read([8]))) == (9, [28])
    assert len(corpus) == COUNT - 1
    # The same size at another time, and the same time with another size, are other files too.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    open_corpus(folder)
    assert asked == [path, path]


def test_who_is_stopped_forgets_nothing(folder, asked, monkeypatch):
    open_corpus(folder)
    for number in range(COUNT):
        shutil.copy(folder / "ü" / "0.mp4", folder / f"{number}.mp4")  # before the others
    real = probed.probe_video

    def stopped(path):
        if len(asked) == 2 * COUNT - 2:
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(probed, "probe_video", stopped)
        with pytest.raises(KeyboardInterrupt):
            open_corpus(folder)
    del asked[:]
    assert len(open_corpus(folder)) == 2 * COUNT
    assert len(asked) == 2


def test_what_cannot_be_read_is_looked_at_each_time(folder, asked):
    (folder / "broken.mp4").write_bytes(b"no video")
    for _ in range(2):
        assert [s.path.name for s in open_corpus(folder).skipped] == ["broken.mp4"]
    assert [path.name for path in asked].count("broken.mp4") == 2


@pytest.mark.parametrize("harm", ["cut", "other version", "no folder"])
def test_without_a_memory_that_can_be_used_all_are_probed(folder, asked, monkeypatch, harm):
    if harm == "no folder":
        (folder.parent / "cache").write_text("in the way")
    open_corpus(folder)
    if harm == "cut":
        (file,) = (folder.parent / "cache" / "probed").iterdir()
        file.write_bytes(file.read_bytes()[:-40])
    if harm == "other version":
        monkeypatch.setattr(probed, "VERSION", "0")
    assert len(open_corpus(folder)) == COUNT
    assert len(asked) == 2 * COUNT


def test_a_few_files_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("DILA_CACHE", str(tmp_path / "cache"))
    write_video(tmp_path / "a" / "b.mp4", torch.zeros(4, 3, 32, 32, dtype=torch.uint8), 10)
    open_corpus(tmp_path / "a")
    assert not (tmp_path / "cache").exists()
