"""Frames by their packets are those that the container gives, to the pixel, or the container is asked."""

import threading
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from detailed_film import write_film

from dila.data import packets, video
from dila.data.video import probe_video, read_video, write_video
from dila.errors import DilaError


@pytest.fixture(autouse=True)
def without_torchcodec(monkeypatch):
    monkeypatch.setattr(video, "read_fast", lambda *_: None)


@pytest.fixture
def asked(monkeypatch):
    """How often the container was asked."""
    calls, real = [], video._decode
    monkeypatch.setattr(video, "_decode", lambda *given: calls.append(given) or real(*given))
    return calls


def same_as_the_container(path, draws=24):
    info = probe_video(path)
    whole = read_video(path, range(40), replace(info, packets=None))
    rng = np.random.default_rng(0)
    for draw in range(draws):
        first, count = int(rng.integers(0, 30)), int(rng.integers(1, 10))
        scattered = rng.integers(0, 40, count).tolist()
        wanted = scattered if draw % 2 else list(range(first, first + count))
        assert torch.equal(read_video(path, wanted, info), whole[wanted])
    return info


@pytest.mark.parametrize(
    ("codec", "settings"),
    [
        ("libx264", {}),
        ("libx264", {"options": {"bf": "3", "x264-params": "b-pyramid=normal:ref=4"}}),
        ("libx264", {"options": {"bf": "2", "x264-params": "open-gop=1"}}),
        ("libx264", {"options": {"profile:v": "baseline", "x264-params": "bframes=0"}}),
        ("libx264", {"pix_fmt": "yuv420p10le"}),
        ("libx264", {"full": True}),
        ("libx264", {"pts": [f + (f > 20) * 3 for f in range(40)]}),
        ("libx265", {"options": {"x265-params": "log-level=none:bframes=4:open-gop=1"}}),
        ("libvpx-vp9", {}),
        ("libsvtav1", {}),
    ],
)
def test_frames_are_those_of_the_container(tmp_path, asked, codec, settings):
    from_its_packets(tmp_path / "a.mp4", asked, codec, settings)


def from_its_packets(path, asked, codec, settings):
    try:
        write_film(path, codec, **settings)
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"PyAV has no {codec} here")
    info = same_as_the_container(path)
    assert info.packets is not None
    assert len(asked) == 1  # for what it is compared with


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("a.webm", "libvpx", {}),
        ("a.webm", "libsvtav1", {"svtav1-params": "tune=1"}),
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.mkv", "libx265", {"x265-params": "log-level=none"}),
    ],
)
def test_so_are_those_of_webm_and_matroska(tmp_path, asked, name, codec, options):
    from_its_packets(tmp_path / name, asked, codec, {"options": options})


def test_packets_that_are_not_stored_as_they_are_decoded_are_left_to_the_container(tmp_path):
    """In Matroska each says for itself how it is wrapped: here one in the middle is not what the file holds."""
    path = write_film(tmp_path / "a.webm", "libvpx-vp9")
    info = probe_video(path)
    data = bytearray(path.read_bytes())
    data[int(info.packets.offsets[7]) + 5] ^= 255
    (tmp_path / "b.webm").write_bytes(data)
    with av.open(str(path)) as container, (tmp_path / "b.webm").open("rb") as file:
        stream = container.streams.video[0]
        notes = packets._Notes(file, container, stream)
        for packet in container.demux(stream):
            if packet.size:
                notes.note(packet)
    assert notes.result() is None


@pytest.mark.parametrize(
    ("name", "settings"),
    [("a.mp4", {"rotation": 90}), ("a.mp4", {"codec": "mpeg4"}), ("a.avi", {"codec": "mpeg4"})],
)
def test_other_files_are_read_by_the_container(tmp_path, name, settings):
    assert same_as_the_container(write_film(tmp_path / name, **settings), draws=4).packets is None


def test_what_does_not_come_from_its_packets_is_asked_of_the_container(tmp_path, asked):
    """A picture that is renewed bit by bit has frames from which nothing decodes at once."""
    path = write_film(tmp_path / "a.mp4", options={"x264-params": "intra-refresh=1"})
    same_as_the_container(path)
    assert len(asked) > 1


def test_no_more_is_decoded_than_is_needed(tmp_path, monkeypatch):
    path = write_film(tmp_path / "a.mp4", options={"bf": "3", "x264-params": "b-adapt=0:b-pyramid=none"})
    info = probe_video(path)
    key = int(info.keyframes[2])
    runs = list(info.packets.runs([1, key, key + 1, key + 2], info.keyframes))
    assert [goals for _, goals in runs] == [{1}, {key, key + 1, key + 2}]
    # A group of pictures is shown I B B B P: for frame 1 the packets of I, P and the first B.
    assert [len(run) for run, _ in runs] == [3, 4]
    sent = []
    real = packets._decoder

    class Watching:
        def __init__(self, decoder):
            object.__setattr__(self, "decoder", decoder)

        def __getattr__(self, name):
            return getattr(self.decoder, name)

        def __setattr__(self, name, value):
            setattr(self.decoder, name, value)

        def decode(self, packet):
            frames = self.decoder.decode(packet)
            sent.extend(f.pts for f in frames)
            return frames

    monkeypatch.setattr(packets, "_decoder", lambda *given: Watching(real(*given)))
    read_video(path, [4, 8], info)
    assert sorted(sent) == [0, 4, 8]  # the B-frames between them were passed over


def test_one_decoder_serves_videos_alike(tmp_path):
    frames = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    infos = {}
    for number in range(6):
        write_video(tmp_path / f"{number}.mp4", frames.roll(number, 0), 10)
        infos[tmp_path / f"{number}.mp4"] = probe_video(tmp_path / f"{number}.mp4")
    told = []

    def read():
        for path, info in infos.items():
            read_video(path, [3, 4], info)
        told.append(len(packets._thread.decoders))

    thread = threading.Thread(target=read)  # whose decoders are its own
    thread.start()
    thread.join()
    assert told == [1]


def test_a_file_that_changed_is_not_read_by_old_places(tmp_path, asked):
    path = write_film(tmp_path / "a.mp4")
    info = probe_video(path)
    write_video(path, torch.zeros(40, 3, 66, 98, dtype=torch.uint8), 25)
    assert read_video(path, [5], info).max() < 8  # of the new file
    assert len(asked) == 1
    path.write_bytes(b"no video")
    with pytest.raises(DilaError, match="not a readable video"):
        read_video(path, [5], info)


def test_damaged_packets_are_told_by_the_container(tmp_path):
    path = write_film(tmp_path / "a.mp4")
    info = probe_video(path)
    data = bytearray(path.read_bytes())
    for offset, size in zip(info.packets.offsets.tolist(), info.packets.sizes.tolist(), strict=True):
        data[offset : offset + size] = bytes(size)
    path.write_bytes(data)
    told = path.stat()
    info = replace(info, packets=replace(info.packets, stamp=(told.st_mtime_ns, told.st_size)))
    with pytest.raises(DilaError, match=r"a\.mp4"):
        read_video(path, [5], info)
