"""Episodes that share a file are read from their own packets, with the frames that the container gives."""

import os

import av
import numpy as np
import pytest
import torch
from detailed_film import write_film

from dila.data import seek, span, video
from dila.data.seek import read_at
from dila.data.span import Span, read_span
from dila.data.video import write_video
from dila.errors import DilaError

FPS, COUNT = 25, 96


def write_as(path, **how):
    return write_film(path, count=COUNT, gap=20, **how)


def write_gop(path, frames, fps, gap):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": str(gap), "bf": "0", "qp": "4"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for picture in frames.permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def opens(monkeypatch):
    """How often a file was opened as a video to learn of packets, and to read frames."""
    calls, real = {"learn": 0, "read": 0}, video.opened

    def counting(kind):
        def opened(path):
            calls[kind] += 1
            return real(path)

        return opened

    monkeypatch.setattr(span, "opened", counting("learn"))
    monkeypatch.setattr(seek, "opened", counting("read"))
    return calls


def same_as_the_container(path, start, count):
    rng = np.random.default_rng(start)
    one = Span(path, start / FPS, FPS, count)
    for _ in range(6):
        first = int(rng.integers(0, count))
        for wanted in ([*range(first, min(first + 6, count))], rng.integers(0, count, 5).tolist()):
            told = read_at(path, [(start + f) / FPS for f in wanted], 1 / FPS)
            assert torch.equal(read_span(one, wanted), told)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "0"}),
        ("a.mp4", "libx264", {"bf": "4", "b_strategy": "0", "x264-params": "b-pyramid=normal:ref=4"}),
        ("a.mp4", "libx264", {"bf": "3", "x264-params": "open-gop=1"}),
        ("a.mp4", "libx265", {"x265-params": "log-level=none:bframes=4:open-gop=1"}),
        ("a.mp4", "libsvtav1", {"g": "2", "crf": "20", "preset": "10"}),
        ("a.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    ],
)
def test_frames_are_those_of_the_container(tmp_path, opens, name, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV here cannot write {codec}")
    path = write_as(tmp_path / name, codec=codec, options=options)
    for start, count in ((0, 30), (30, 25), (55, 41)):
        same_as_the_container(path, start, count)
    assert opens["learn"] == 3  # once an episode
    assert opens["read"] == 3 * 12  # for what it is compared with


@pytest.mark.parametrize("settings", [{"codec": "mpeg4"}, {"rotation": 90}])
def test_what_cannot_be_read_from_packets_is_asked_of_the_container(tmp_path, opens, settings):
    path = write_as(tmp_path / "a.mp4", **settings)
    same_as_the_container(path, 30, 25)
    assert opens["learn"] == 1
    assert opens["read"] == 2 * 12


def test_only_the_packets_of_the_episode_are_walked(tmp_path):
    path = write_as(tmp_path / "a.mp4")
    one = Span(path, 45 / FPS, FPS, 20)
    read_span(one, [0])
    info, places = span._known(one)
    assert 20 <= len(info) <= 20 + 20 + 4  # from the keyframe before it, and B-frames that lie between
    assert places.tolist() == list(range(int(places[0]), int(places[0]) + 20))


def test_a_file_that_changes_is_walked_again_and_one_that_goes_is_told(tmp_path, opens, shades, numbers):
    path = tmp_path / "a.mp4"
    write_video(path, shades(40), FPS)
    one = Span(path, 10 / FPS, FPS, 20)
    assert numbers(read_span(one, [0, 7])) == [10, 17]
    write_video(path, shades(40, 5), FPS)
    os.utime(path, (1, 1))
    assert numbers(read_span(one, [0, 7])) == [15, 22]
    assert opens == {"learn": 2, "read": 0}
    with pytest.raises(DilaError, match=r"a\.mp4 has no frame at"):
        read_span(Span(path, 30 / FPS, FPS, 20), [15])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DilaError, match=r"a\.mp4"):
        read_span(one, [0])
    path.unlink()
    with pytest.raises(DilaError, match=r"a\.mp4 no longer exists"):
        read_span(one, [0])


@pytest.mark.parametrize("gap", [1, 12])
@pytest.mark.parametrize(("rate", "film"), [(20, 50), (30, 60), (15, 60), (30, 120), (10, 25), (25, 25)])
def test_the_frame_is_the_nearest_one(tmp_path, shades, numbers, rate, film, gap):
    """Where a film has more frames a second than its table, whichever way they are read; of two the earlier."""
    path, count = tmp_path / "a.mp4", 60
    write_gop(path, shades(count), film, gap)
    at, start = np.arange(count) / film, 4 / film
    one = Span(path, start, rate, int((count - 6) * rate / film))
    nearest = [int(np.argmin(np.abs(at - time).round(9))) for time in one.times]
    assert span._known(one) is not None
    for some in (range(one.count), [one.count - 2], [3, 1]):
        assert numbers(read_span(one, list(some))) == [nearest[f] for f in some]
        assert numbers(read_at(path, one.times[list(some)].tolist(), 1 / rate)) == [nearest[f] for f in some]
