import av
import numpy as np
import pytest
import torch

from dila.data import seek
from dila.data.seek import check_whole, read_at
from dila.data.video import write_video
from dila.errors import DilaError

FPS = 25


def write_as(path, frames, codec, options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[2], frames.shape[3], "yuv420p"
        for picture in frames.permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "250", "bf": "0"}),
        ("libx264", {"g": "12", "bf": "4", "b_strategy": "0"}),
        ("libx264", {"g": "250", "bf": "3"}),
        ("libsvtav1", {"g": "2", "crf": "20", "preset": "10"}),
        ("mpeg4", {"g": "10", "qmin": "1", "qmax": "2"}),
    ],
)
def test_the_frame_at_a_time_is_the_frame_asked_for(tmp_path, shades, numbers, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV here cannot write {codec}")
    write_as(tmp_path / "a.mp4", shades(60, size=64), codec, options)
    rng = np.random.default_rng(0)
    for wanted in ([0], [59], [3, 4, 5, 6], [58, 2, 30, 2], *(rng.integers(0, 60, 5).tolist() for _ in range(20))):
        assert numbers(read_at(tmp_path / "a.mp4", [f / FPS for f in wanted], 1 / FPS)) == wanted


def test_times_that_are_slightly_off_find_their_frame_and_others_none(tmp_path, shades, numbers):
    write_video(tmp_path / "a.mp4", shades(20), FPS)
    assert numbers(read_at(tmp_path / "a.mp4", [7.4 / FPS, 9.6 / FPS], 1 / FPS)) == [7, 10]
    for outside in (20.0, 400.0, -3.0):
        with pytest.raises(DilaError, match=r"a\.mp4 has no frame at"):
            read_at(tmp_path / "a.mp4", [outside / FPS], 1 / FPS)


def test_a_late_frame_is_not_decoded_from_the_start(tmp_path, monkeypatch):
    frames = torch.arange(600).remainder(60).mul(4).to(torch.uint8)[:, None, None, None].expand(600, 3, 32, 32)
    write_video(tmp_path / "long.mp4", frames.contiguous(), FPS)
    decoded = 0
    next_of = seek._Walk._time

    def counting(self, frame):
        nonlocal decoded
        decoded += frame is not counting.last
        counting.last = frame
        return next_of(self, frame)

    counting.last = None
    monkeypatch.setattr(seek._Walk, "_time", counting)
    read_at(tmp_path / "long.mp4", [590 / FPS], 1 / FPS)
    assert decoded <= 40
    decoded = 0
    read_at(tmp_path / "long.mp4", [10 / FPS, 590 / FPS], 1 / FPS)
    assert decoded <= 80


def test_a_whole_file_passes_and_a_cut_one_does_not(tmp_path, shades):
    path = tmp_path / "a.mp4"
    write_video(path, shades(20), FPS)
    check_whole(path)
    data = path.read_bytes()
    for keep in (len(data) - 1, len(data) // 2, 30, 5):
        path.write_bytes(data[:keep])
        with pytest.raises(DilaError, match=r"a\.mp4 is damaged or truncated"):
            check_whole(path)
    path.write_bytes(b"")
    with pytest.raises(DilaError, match=r"a\.mp4 is empty"):
        check_whole(path)
    path.unlink()
    with pytest.raises(DilaError, match=r"a\.mp4 cannot be read"):
        check_whole(path)
    with pytest.raises(DilaError, match=r"a\.mp4 no longer exists"):
        read_at(path, [0.0], 1 / FPS)
