"""A machine that is too small is told of, and no data is left out for it."""

import resource
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

from dila.data import Clips, Mixture, load_clips, open_corpus, read_video, video, write_video
from dila.data.check import check
from dila.errors import DilaError, Shortage, refuse_shortage
from dila.vision import FeatureCache
from dila.vision.pixels import PatchesConfig, PatchPixels


@pytest.fixture
def folder(tmp_path, shades):
    write_video(tmp_path / "a.mp4", shades(12, size=32), 10)
    (tmp_path / "b").mkdir()
    for f in range(3):
        Image.fromarray(np.full((20, 24, 3), f * 20, np.uint8)).save(tmp_path / "b" / f"{f}.png")
    return tmp_path


@pytest.fixture
def no_memory(monkeypatch):
    def fails(*arguments, **options):
        raise av.error.MemoryError(12, "Cannot allocate memory")

    def begin(room=False):
        monkeypatch.setattr(av, "open", fails)
        monkeypatch.setattr(video, "_has_room", lambda: room)

    return begin


@pytest.fixture
def no_file_more():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


MEMORY = r"too little memory \(.*Cannot allocate memory.*--batch"
FILES = r"too many files are open \(.*Too many open files.*ulimit -n"


def test_a_damaged_file_that_claims_all_memory_is_left_out(folder, no_memory):
    info = replace(open_corpus(folder / "a.mp4").episodes[0].info, packets=None)
    assert video._has_room()
    no_memory(room=True)
    with pytest.raises(DilaError, match=r"a\.mp4 is not a readable video \(Cannot allocate memory\); replace"):
        read_video(folder / "a.mp4", [0], info)
    assert "a.mp4" in open_corpus(folder).skipped[0].reason


def test_where_the_largest_picture_does_not_fit_there_is_no_room(monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 1 << 60)
    assert not video._has_room()


def test_no_memory_is_no_damage(folder, no_memory, tmp_path):
    episode = replace(open_corpus(folder / "a.mp4").episodes[0])
    clips = Mixture({"a": Clips([episode], 2)})
    info = replace(episode.info, packets=None)
    no_memory()
    for read in (
        lambda: open_corpus(folder / "a.mp4"),
        lambda: open_corpus(folder),
        lambda: read_video(folder / "a.mp4", [0], info),
    ):
        with pytest.raises(Shortage, match=MEMORY):
            read()
    object.__setattr__(episode, "info", info)
    with pytest.raises(Shortage, match=MEMORY):
        clips[0]
    with pytest.raises(Shortage, match=MEMORY):
        list(load_clips(clips, 2, workers=1))
    with pytest.raises(Shortage, match=MEMORY):
        FeatureCache(PatchPixels(PatchesConfig(32)), tmp_path / "cache", progress=False).episodes([episode])


def test_no_file_more_is_no_damage(folder, no_file_more):
    corpus = open_corpus(folder)
    clips = [Clips([episode], 2) for episode in corpus.episodes]
    no_file_more()
    for read in (
        lambda: clips[0][0],
        lambda: clips[1][0],
        lambda: open_corpus(folder),
        lambda: open_corpus(folder / "a.mp4"),
        lambda: open_corpus(folder / "b"),
        corpus.episodes[0].fingerprint,
        lambda: FeatureCache(PatchPixels(PatchesConfig(32)), folder / "cache", progress=False).missing(corpus.episodes),
        lambda: check(folder),
    ):
        with pytest.raises(Exception, match="Too many open files") as told:
            read()
        with pytest.raises(Shortage, match=FILES):
            refuse_shortage(told.value)


@pytest.mark.parametrize("error", [MemoryError("a claim of 9 TiB"), OSError(5, "Input/output error"), KeyError("a")])
def test_what_a_reader_says_of_its_own_format_stands(error):
    try:
        raise DilaError("a.h5 is damaged") from error
    except DilaError as told:
        refuse_shortage(told)


def test_torch_and_numpy_say_it_in_their_own_ways():
    for act in (lambda: np.empty(2**60, np.uint8), lambda: torch.empty(2**50)):
        with pytest.raises((MemoryError, RuntimeError)) as told:
            act()
        with pytest.raises(Shortage, match="too little memory"):
            refuse_shortage(told.value)
