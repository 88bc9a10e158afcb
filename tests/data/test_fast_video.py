"""torchcodec against PyAV; skipped where torchcodec finds no FFmpeg."""

import pytest
import torch
from detailed_film import write_film

from dila.data import fast_video, video
from dila.data.fast_video import read_fast
from dila.data.video import probe_video, read_video
from dila.errors import DilaError

if fast_video._torchcodec() is None:
    pytest.skip("torchcodec does not import here", allow_module_level=True)


@pytest.fixture
def by_pyav(monkeypatch):
    """Read by PyAV alone."""

    def read(path, frames, info=None):
        with monkeypatch.context() as patch:
            patch.setattr(video, "read_fast", lambda *_: None)
            return read_video(path, frames, info)

    return read


WANTED = [39, 0, 13, 13, 5, 24, 38]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("a.mp4", "libx264", "yuv420p", {"bf": "3"}),
        ("b.mp4", "libx264", "yuv444p", {}),
        ("a.mov", "libx264", "yuv420p", {}),
        ("a.mkv", "libx264", "yuv420p", {}),
        ("a.webm", "libvpx-vp9", "yuv420p", {}),
        ("a.mp4", "mpeg4", "yuv420p", {}),
    ],
)
def test_frames_are_those_of_pyav_to_the_pixel(tmp_path, by_pyav, name, codec, pix_fmt, options):
    path = write_film(tmp_path / name, codec, pix_fmt, options=options)
    info = probe_video(path)
    fast = read_fast(path, WANTED, info)
    assert fast is not None
    assert torch.equal(fast, by_pyav(path, WANTED, info))
    assert torch.equal(read_video(path, WANTED, info), fast)
    rest = [[i] for i in range(len(info))]
    assert all(torch.equal(read_fast(path, f, info), by_pyav(path, f, info)) for f in rest[::7])


@pytest.mark.parametrize(
    "settings",
    [
        {"pts": [f + (f > 20) * 3 for f in range(40)]},
        {"rotation": 90},
        {"rotation": 180},
        {"pix_fmt": "yuv420p10le"},
    ],
)
def test_what_would_differ_is_left_to_pyav(tmp_path, by_pyav, settings):
    path = write_film(tmp_path / "a.mp4", "libx264", **settings)
    info = probe_video(path)
    assert read_fast(path, WANTED, info) is None
    assert torch.equal(read_video(path, WANTED, info), by_pyav(path, WANTED, info))


def test_open_groups_of_pictures_give_the_same_frames(tmp_path, by_pyav):
    path = write_film(tmp_path / "a.mov", "libx264", options={"x264-params": "open-gop=1", "bf": "2"})
    info = probe_video(path)
    for f in range(0, 40, 3):
        assert torch.equal(read_video(path, [f], info), by_pyav(path, [f], info))


def test_what_fails_is_told_as_without_it(tmp_path):
    path = write_film(tmp_path / "a.mp4", "libx264")
    info = probe_video(path)
    path.unlink()
    with pytest.raises(DilaError, match=r"a\.mp4 is not a readable video"):
        read_video(path, WANTED, info)


def test_without_it_pyav_reads(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.mp4", "libx264")
    monkeypatch.setattr(fast_video, "_torchcodec", lambda: None)
    assert read_fast(path, WANTED, probe_video(path)) is None
    assert read_video(path, WANTED).shape == (7, 3, 66, 98)
