import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dila.data import video
from dila.data.video import VideoEpisode, probe_video, read_video, write_video
from dila.errors import DilaError

SIZE = 48


def shades(count: int, size: int = SIZE) -> torch.Tensor:
    """Frame f is grey 4 * f + 8."""
    return (torch.arange(count) * 4 + 8).to(torch.uint8)[:, None, None, None].expand(count, 3, size, size).contiguous()


def numbers(frames: torch.Tensor) -> list[int]:
    return ((frames.float().mean((1, 2, 3)) - 8) / 4).round().int().tolist()


def write_as(path, codec, frames, pts=None, pix_fmt="yuv420p", options=None, rotation=None):
    """A file of any kind, with any times (in hundredths of a second)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=100, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[2], frames.shape[3], pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for f, picture in enumerate(frames.permute(0, 2, 3, 1).numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = (f if pts is None else pts[f]), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def mp4(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "shades.mp4"
    write_video(path, shades(60), fps=10)
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_what_was_written_is_read(tmp_path, name):
    path = tmp_path / "film" / name
    write_video(path, shades(20), fps=10)
    info = probe_video(path)
    assert len(info) == 20
    assert info.size == (SIZE, SIZE)
    np.testing.assert_allclose(info.times, np.arange(20) / 10, atol=1e-6)
    assert numbers(read_video(path, [19, 3, 3, 0, 11])) == [19, 3, 3, 0, 11]
    assert [p.name for p in path.parent.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("a.webm", "libvpx-vp9", "yuv420p", {"g": "8", "lag-in-frames": "10"}),
        ("a.avi", "mpeg4", "yuv420p", {"g": "8", "qmin": "1", "qmax": "2"}),
        ("b.avi", "libx264", "yuv420p", {"g": "8", "bf": "3"}),
        ("c.avi", "mjpeg", "yuvj420p", {"qmin": "1", "qmax": "2"}),
        ("a.mkv", "libx264", "yuv420p", {"g": "8", "bf": "3"}),
        ("a.mov", "libx264", "yuv420p", {"g": "2", "bf": "1"}),
        ("a.mp4", "libx264", "yuv420p", {"g": "250", "bf": "3"}),
    ],
)
def test_every_container_gives_the_frame_asked_for(tmp_path, name, codec, pix_fmt, options):
    write_as(tmp_path / name, codec, shades(40), pix_fmt=pix_fmt, options=options)
    info = probe_video(tmp_path / name)
    assert len(info) == 40
    for wanted in ([39], [0], [17, 5, 30], list(range(40)), [8, 9, 7], [31, 33]):
        assert numbers(read_video(tmp_path / name, wanted, info)) == wanted


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "libx264"), ("v.webm", "libvpx-vp9")])
def test_variable_frame_rate_keeps_its_times(tmp_path, name, codec):
    pts = [0, 10, 15, 40, 41, 100, 230]
    write_as(tmp_path / name, codec, shades(7), pts=pts)
    np.testing.assert_allclose(probe_video(tmp_path / name).times, np.array(pts) / 100, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mpg", "mpeg1video", {"g": "8", "bf": "2"}),
        ("a.mpeg", "mpeg2video", {"g": "8", "bf": "2"}),
        ("a.ts", "libx264", {"g": "8", "bf": "3"}),
        ("a.mts", "mpeg2video", {"g": "8", "bf": "2"}),
        ("a.m2ts", "libx265", {"x265-params": "keyint=8:bframes=3:log-level=none"}),
        ("a.wmv", "wmv2", {"g": "8"}),
        ("a.flv", "libx264", {"g": "8", "bf": "3"}),
        ("a.3gp", "mpeg4", {"g": "8"}),
    ],
)
def test_other_containers_give_the_frame_and_the_time_asked_for(tmp_path, name, codec, options):
    path = tmp_path / name
    film = shades(60, 64)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 64, 64, "yuv420p", 4_000_000
        for f, picture in enumerate(film.permute(0, 2, 3, 1).numpy()):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = f, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert video.claims(path)
    info = probe_video(path)
    np.testing.assert_allclose(info.times, np.arange(60) / 25, atol=6e-4)
    for wanted in np.random.default_rng(0).integers(0, 60, (12, 3)).tolist():
        assert numbers(read_video(path, wanted, info)) == wanted


def test_late_frames_do_not_decode_from_the_start(mp4, monkeypatch):
    info = replace(probe_video(mp4), packets=None)  # by the container; by packets, see test_packets.py
    assert len(info.keyframes) >= 4
    decoded = 0
    opened = video.opened

    class Counting:
        def __init__(self, container):
            self.container = container

        def seek(self, *args, **kwargs):
            self.container.seek(*args, **kwargs)

        def decode(self, stream):
            nonlocal decoded
            for frame in self.container.decode(stream):
                decoded += 1
                yield frame

    from contextlib import contextmanager

    @contextmanager
    def counting(path):
        with opened(path) as (container, stream):
            yield Counting(container), stream

    monkeypatch.setattr(video, "opened", counting)
    monkeypatch.setattr(video, "read_fast", lambda *_: None)
    assert numbers(read_video(mp4, [58, 2], info)) == [58, 2]
    assert decoded == (58 - 48 + 1) + (2 - 0 + 1)  # from the keyframe before each, and not from the one before that


def test_odd_sides_are_widened_by_repeating_the_edge(tmp_path):
    frames = shades(3, 34)[:, :, :33, :31]
    write_video(tmp_path / "odd.mp4", frames, fps=10)
    back = read_video(tmp_path / "odd.mp4", [0, 1, 2])
    assert back.shape == (3, 3, 34, 32)
    assert (back[:, :, :33, :31].int() - frames.int()).abs().max() <= 3
    assert (back[..., 31].int() - back[..., 30].int()).abs().max() <= 2


def test_quality_is_high(tmp_path):
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    base = (127 + 100 * torch.sin(x / 6) * torch.cos(y / 9)).to(torch.uint8)
    frames = torch.stack([base.roll(t, 1) for t in range(12)])[:, None].expand(12, 3, 64, 64).contiguous()
    write_video(tmp_path / "q.mp4", frames, fps=10)
    error = (read_video(tmp_path / "q.mp4", range(12)).float() - frames.float()).pow(2).mean()
    assert 10 * torch.log10(255**2 / error) > 38


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_rotation_metadata_is_applied(tmp_path, turn):
    upright = torch.zeros(3, 3, 32, 64, dtype=torch.uint8)
    upright[:, :, :8] = 230  # bright on top
    stored = torch.rot90(upright, -turn // 90, (2, 3)).contiguous()
    write_as(tmp_path / "r.mp4", "libx264", stored, rotation=turn)
    back = read_video(tmp_path / "r.mp4", [1])
    assert probe_video(tmp_path / "r.mp4").size == (32, 64)
    assert back[..., :6, :].float().mean() > 200
    assert back[..., 12:, :].float().mean() < 40


def test_no_rows_for_no_indices_and_a_clear_word_for_wrong_ones(mp4):
    assert read_video(mp4, []).shape == (0, 3, SIZE, SIZE)
    with pytest.raises(DilaError, match=r"shades\.mp4 has frames 0 to 59, but 3 to 60 were requested"):
        read_video(mp4, [3, 60])
    with pytest.raises(DilaError, match="-1"):
        read_video(mp4, [-1])


def test_unreadable_files_are_told_apart(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello, I am no video at all\n" * 99)
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n")
    for name, words in {"empty": "is empty", "text": "is not a readable", "list": "is not a readable"}.items():
        with pytest.raises(DilaError, match=rf"{name}\.mp4 {words}"):
            probe_video(tmp_path / f"{name}.mp4")
    with pytest.raises(DilaError, match="does not exist"):
        probe_video(tmp_path / "none.mp4")
    with pytest.raises(DilaError, match="not a file"):
        probe_video(tmp_path)


def test_tags_that_are_no_text_cost_nothing(mp4, tmp_path):
    data = mp4.read_bytes()
    assert b"Lavf" in data  # in the tag of what wrote it
    (tmp_path / "a.mp4").write_bytes(data.replace(b"Lavf", b"\xff\xfe\xff\xfe"))
    assert len(probe_video(tmp_path / "a.mp4").times) == 60


def test_a_file_with_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "s.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.rate = 44100
        frame.planes[0].update(bytes(4096))
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DilaError, match="no video stream"):
        probe_video(tmp_path / "s.mp4")


def noisy(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return shades(count) + torch.randint(0, 50, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def cut(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.avi"])
@pytest.mark.parametrize("keep", [0.03, 0.4, 0.8, 0.9])
def test_a_file_cut_short_is_unreadable(tmp_path, name, keep):
    if name == "a.avi":
        write_as(tmp_path / name, "mpeg4", noisy(40), options={"g": "8"})
    else:
        write_video(tmp_path / name, noisy(40), fps=10)
    cut(tmp_path / name, keep)
    with pytest.raises(DilaError, match=name):
        probe_video(tmp_path / name)


@pytest.mark.parametrize("keep", [0.3, 0.8])
def test_of_a_stream_cut_short_the_whole_frames_are_used(tmp_path, keep):
    write_as(tmp_path / "a.webm", "libvpx-vp9", noisy(40), options={"g": "8"})
    whole = read_video(tmp_path / "a.webm", range(40))
    cut(tmp_path / "a.webm", keep)
    count = len(probe_video(tmp_path / "a.webm"))
    assert 0 < count < 40
    assert torch.equal(read_video(tmp_path / "a.webm", range(count)), whole[:count])


def test_damage_inside_raises_rather_than_gives_black_frames(mp4, tmp_path):
    info = probe_video(mp4)
    data = bytearray(mp4.read_bytes())
    middle = data.index(b"mdat") + 4
    data[middle : middle + (len(data) - middle) // 2] = bytes((len(data) - middle) // 2)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    with pytest.raises(DilaError, match=r"bad\.mp4"):
        read_video(bad, [1], info)


@pytest.mark.parametrize(("width", "height"), [(17000, 100), (10000, 10000)])
def test_absurd_sizes_are_refused_before_decoding(tmp_path, width, height):
    gif = tmp_path / "big.gif"
    write_video(gif, shades(2), fps=10)
    data = bytearray(gif.read_bytes())
    data[6:10] = struct.pack("<HH", width, height)
    gif.write_bytes(data)
    with pytest.raises(DilaError, match=f"declares {width} x {height}"):
        probe_video(gif)


def test_writing_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(DilaError, match=r"must end in \.mp4 or \.gif"):
        write_video(tmp_path / "a.txt", shades(2), 10)
    with pytest.raises(DilaError, match="0 frames"):
        write_video(tmp_path / "a.mp4", shades(0), 10)
    with pytest.raises(DilaError, match="at 0 frames"):
        write_video(tmp_path / "a.mp4", shades(2), 0)
    (tmp_path / "file").touch()
    with pytest.raises(DilaError, match="cannot be written"):
        write_video(tmp_path / "file" / "a.mp4", shades(2), 10)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_video(path, shades(2), 10)
    old = path.read_bytes()
    monkeypatch.setattr("dila.files.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_video(path, shades(5), 10)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["12:30.mp4", "data:a b.mp4", "-é %03d?.mp4"])
def test_a_file_may_have_any_name_in_the_folder_that_one_is_in(name, tmp_path, monkeypatch):
    """FFmpeg has what stands before a colon for a protocol."""
    monkeypatch.chdir(tmp_path)
    write_video(name, shades(4), 10)
    assert len(probe_video(Path(name))) == 4


def test_fingerprint_follows_the_content(tmp_path, mp4):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(mp4.read_bytes())
    info = probe_video(mp4)
    assert VideoEpisode("a", copy, info).fingerprint() == VideoEpisode("b", mp4, info).fingerprint()
    write_video(copy, shades(60).flip(0), fps=10)
    assert VideoEpisode("a", copy, info).fingerprint() != VideoEpisode("b", mp4, info).fingerprint()


def test_a_file_that_went_is_told(tmp_path):
    write_video(tmp_path / "a.mp4", shades(20), 10)
    info = probe_video(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(DilaError, match=r"a\.mp4 is not a readable video \(No such file"):
        read_video(tmp_path / "a.mp4", [5], info)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "fps", "told"),
    [
        (lambda o: o.float(), 10, "from Tensor of torch.float32 .* T 3 Y X"),
        (lambda o: o[:, :1], 10, r"from Tensor of torch.uint8 \[2, 1, "),
        (lambda o: o.movedim(1, -1), 10, r", 3\]; give uint8"),
        (lambda o: o[None], 10, r"\[1, 2, 3, "),
        (lambda o: o.numpy().astype(np.float32), 10, "from ndarray of float32"),
        (lambda o: list(o), 10, "from list;"),
        (lambda o: o[..., :0], 10, "give at least one"),
        (lambda o: o, float("inf"), "at inf frames a second"),
        (lambda o: o, float("nan"), "at nan frames a second"),
    ],
)
@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_what_cannot_be_written_as_video_is_refused(tmp_path, shades, change, fps, told, suffix):
    with pytest.raises(DilaError, match=f"a.{suffix} .*{told}"):
        write_video(tmp_path / f"a.{suffix}", change(shades(2)), fps)
    assert not list(tmp_path.iterdir())


def test_an_array_is_written_as_the_tensor_is(tmp_path, shades):
    write_video(tmp_path / "a.mp4", shades(4), 10)
    write_video(tmp_path / "b.mp4", np.flip(shades(4).numpy()[::-1], 0), 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
