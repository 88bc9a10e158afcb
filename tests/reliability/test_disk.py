"""A disk that is full or may not be written to: one sentence, and what was whole still is."""

import errno
import os
import resource
import subprocess
from functools import partial

import numpy as np
import pytest
import torch
import victims
from outcomes import RESULTS, check_whole, finish

from dila.errors import DilaError
from dila.evaluate.curves import write_curves
from dila.evaluate.page import write_page
from dila.evaluate.plots import draw_points
from dila.files import writing
from dila.imagine.pictures import write_sheet


def only_files_of(size):
    """No file of this process gets larger: every write beyond ends as on a full disk, in any library."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of so many kilobytes, where this machine lets us make one."""
    place = tmp_path / "disk"
    place.mkdir()

    def make(kilobytes):
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a small disk")
        return place

    yield make
    subprocess.run(["umount", "-l", str(place)], capture_output=True)


def told(verb, folder, corpus, before=None):
    """What a process says that cannot write."""
    process = victims.start(verb, folder, corpus, before=before)
    sentence = victims.told(process)
    assert process.exitcode == 1
    return sentence


def plain(sentence):
    return sentence.startswith("DilaError: ") and "cannot be written" in sentence


@pytest.mark.parametrize("size", [pytest.param(400, marks=pytest.mark.slow), 3_000])
@pytest.mark.parametrize("verb", victims.VERBS)
def test_files_that_cannot_grow_end_in_one_sentence_and_cost_nothing(verb, size, corpus, whole, tmp_path):
    folder = tmp_path / "work"
    sentence = told(verb, folder, corpus, partial(only_files_of, size))
    assert plain(sentence), sentence
    assert "File too large" in sentence
    check_whole(folder)
    finish(verb, folder, corpus)
    assert RESULTS[verb](folder) == whole(verb)[0]


@pytest.mark.parametrize("verb", ["train", "label"])
def test_a_full_disk_ends_in_one_sentence_and_the_last_good_state_goes_on(verb, corpus, whole, small_disk):
    enough = {"train": 300, "label": 24}[verb]
    folder = small_disk(enough) / "work"
    sentence = told(verb, folder, corpus)
    assert plain(sentence), sentence
    assert "No space left on device" in sentence
    check_whole(folder)
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder.parent)], check=True)
    finish(verb, folder, corpus)
    assert RESULTS[verb](folder) == whole(verb)[0]


@pytest.mark.parametrize("verb", ["train", "encode", "label", "record", "record_lerobot"])
def test_a_folder_that_may_not_be_written_to_is_named(verb, corpus, tmp_path, small_disk):
    if os.geteuid() == 0:  # whom permissions do not stop
        place = small_disk(64)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    else:
        place = tmp_path / "locked"
        place.mkdir(mode=0o555)
    sentence = told(verb, place / "work", corpus)
    assert plain(sentence), sentence
    assert str(place) in sentence


@pytest.mark.parametrize("name", ["sheet.png", "curves.png", "plot.png", "page.html"])
def test_pictures_and_pages_on_a_full_disk_are_named(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def full(*paths):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    write = {
        "sheet.png": lambda path: write_sheet(path, {"a": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}),
        "curves.png": lambda path: write_curves(path, {"a": [1.0, 2.0]}),
        "plot.png": lambda path: draw_points(path, {"a": np.zeros((2, 2))}, ("x", "y")),
        "page.html": lambda path: write_page(path, "a", "b", [], []),
    }
    with pytest.raises(DilaError, match=rf"{name} cannot be written \(No space left"):
        write[name](tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_only_failures_of_the_disk_are_told_so(tmp_path):
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOTDIR):
        with pytest.raises(DilaError, match=f"{tmp_path} cannot be written"), writing(tmp_path):
            raise OSError(number, os.strerror(number))
    for error in (OSError(errno.ENOENT, "gone"), ValueError("a mistake"), DilaError("bad input")):
        with pytest.raises(type(error)) as caught, writing(tmp_path):
            raise error
        assert caught.value is error
