"""Frames of a video from the bytes of its packets, without opening the file as a video each time.

To open a file costs as much as to decode six frames of it (docs/log.md): FFmpeg decodes one to learn what the file
holds, which `dila.data.probe_video` has learnt and noted. So what a clip needs is read from where it lies and given to
a decoder that is kept for all videos with the same settings:

- every packet that frames which are wanted depend on, and none after the last of them: the decoder is drained instead;
- of frames that are not wanted and that no other refers to (H.264's disposable B-frames), none is decoded.

Only where that is known to be the whole truth: mp4, mov, WebM and Matroska, upright, each packet stored as it is
decoded, the file as it was when it was probed. All else, and everything that fails, is left to the container, whose
errors are told.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dila.errors import DilaError

CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d"})
"""Whose frames say which packet they come from, B-frames or none."""
DISPOSES = frozenset({"h264"})
"""Whose decoder leaves out what no other frame refers to, and nothing else, when asked to."""
CONTAINERS = ("mov", "matroska")
"""By the beginnings of FFmpeg's names for them."""
LEAD = 16
"""Bytes between the place that a container tells of a packet and its contents, at most; Matroska has 4 there."""
COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")
"""What a container may say of colours and the packets need not."""
MAX_FRAMES = 20_000_000
"""Of an episode, and rows of a table: four days at 60 frames a second; more is a claim."""
KEPT = 4
"""Decoders that a thread keeps."""

_thread = threading.local()


@dataclass(frozen=True, eq=False)
class Packets:
    """Where the packets of a video lie in its file, in the order of decoding."""

    codec: str
    extradata: bytes
    """What the decoder has to know before the first packet."""
    colours: tuple[int, ...]
    """Of `COLOURS`."""
    places: np.ndarray
    """Number of the frame, in the order of showing, that each packet holds (int64)."""
    turns: np.ndarray
    """The other way round: number of the packet that holds each frame (int64)."""
    offsets: np.ndarray
    """Bytes from the start of the file (int64)."""
    sizes: np.ndarray
    """Bytes (int64)."""
    stamp: tuple[int, int]
    """Time of change and size of the file that was probed."""

    def runs(self, wanted: Sequence[int], keyframes: np.ndarray) -> Iterator[tuple[range, set[int]]]:
        """Packets to decode one after the other, and the frames (sorted, unique) that are wanted of them."""
        goals, turns = list(wanted), self.turns[wanted].tolist()
        keys = keyframes[np.searchsorted(keyframes, goals, "right") - 1].tolist()
        begin = 0
        for end in range(1, len(goals) + 1):
            if end == len(goals) or keys[end] > goals[end - 1] + 1:
                first = int(self.turns[keys[begin]]) if keys[begin] else 0
                yield range(first, max(turns[begin:end]) + 1), set(goals[begin:end])
                begin = end


class _Notes:
    """Notes packets while they are walked through."""

    def __init__(self, file: BinaryIO, container: Any, stream: Any):
        context, name = stream.codec_context, container.format.name
        self.usable = name.startswith(CONTAINERS) and context.codec.name in CODECS
        self.file, self.codec = file, context.codec.name
        self.extradata = bytes(context.extradata or b"")
        self.colours = tuple(int(getattr(context, name)) for name in COLOURS)
        self.lead = -1
        # In mp4 what holds for the first packet holds for all; Matroska says of each how it is wrapped.
        self.each = not name.startswith("mov")
        self.ticks: list[Any] = []
        self.offsets: list[Any] = []
        self.sizes: list[Any] = []

    def note(self, packet: Any) -> None:
        """Take one packet down, if it is of use."""
        odd = packet.is_discard or packet.pts is None or packet.has_sidedata("new_extradata")
        if not self.usable or odd or packet.pos is None or not self._as_stored(packet):
            self.usable = False
            return
        self.ticks.append(packet.pts)
        self.offsets.append(packet.pos + self.lead)
        self.sizes.append(packet.size)

    def _as_stored(self, packet: Any) -> bool:
        """Whether what is decoded lies in the file as it is: encrypted or compressed once more, it does not."""
        if self.offsets and not self.each:
            return True
        self.file.seek(packet.pos)
        found = self.file.read(packet.size + LEAD).find(bytes(packet))
        if not self.offsets:
            self.lead = found
        return found == self.lead >= 0

    def result(self) -> Packets | None:
        """Where all packets lie, or None where reading has to go by the container."""
        if not self.usable or not self.ticks:
            return None
        turns = np.argsort(np.array(self.ticks, dtype=np.int64))
        offsets, sizes = (np.array(numbers, dtype=np.int64) for numbers in (self.offsets, self.sizes))
        told = os.fstat(self.file.fileno())
        stamp = (told.st_mtime_ns, told.st_size)
        return Packets(self.codec, self.extradata, self.colours, np.argsort(turns), turns, offsets, sizes, stamp)


def list_packets(
    path: Path, container: Any, stream: Any, last: float = inf
) -> tuple[np.ndarray, np.ndarray, Packets | None]:
    """When each frame is shown, in ticks, rising; whether it is a keyframe; where its packet lies, if that is of use.

    No packet is kept, as a film is gigabytes.

    Args:
        path: the file.
        container: it, opened; it is walked from where it stands.
        stream: of the video.
        last: tick after which no frame is asked for.

    Raises:
        DilaError: the video is cut short, damaged, without times, or too long.
    """
    if stream.frames > MAX_FRAMES:
        raise DilaError(f"{path} claims {stream.frames:,} frames, more than {MAX_FRAMES:,}; split it")
    pts, key, found = [], [], 0
    with path.open("rb", buffering=0) as file:
        notes = _Notes(file, container, stream)
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.dts is not None and packet.dts > last:  # shown no earlier than that, nor any after it
                break
            found += 1
            notes.note(packet)
            if packet.is_corrupt:
                raise DilaError(f"{path} is damaged or cut short; replace or remove it")
            if found > MAX_FRAMES:
                raise DilaError(f"{path} has more than {MAX_FRAMES:,} frames; split it")
            if not packet.is_discard:  # cut away by an edit list
                pts.append(packet.pts if packet.pts is not None else packet.dts)
                key.append(packet.is_keyframe)
        packets = notes.result()
    if not pts:
        raise DilaError(f"{path} holds no frames; replace or remove it")
    if last == inf and found < stream.frames:
        raise DilaError(f"{path} is cut short: {found} of {stream.frames} frames are there; replace or remove it")
    if any(t is None for t in pts) or len(set(pts)) != len(pts):
        raise DilaError(f"{path} stores no usable time for each frame; rewrap it, for example with ffmpeg, as mp4")
    ticks = np.array(pts, dtype=np.int64)
    order = np.argsort(ticks)
    return ticks[order], np.array(key)[order], packets


def decode_packets(
    path: Path, packets: Packets, keyframes: np.ndarray, wanted: Sequence[int], limits: dict[str, str]
) -> Iterator[tuple[int, Any]]:
    """The wanted frames (sorted, unique) with their numbers, in any order, as far as they decode.

    Args:
        path: the file.
        packets: where its packets lie.
        keyframes: numbers of the frames that decode without others.
        wanted: numbers of frames in the order of showing.
        limits: options of the decoder.

    Raises:
        av.FFmpegError, OSError: a packet does not decode, the file is gone.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        told = os.fstat(file)
        if (told.st_mtime_ns, told.st_size) != packets.stamp:
            return
        decoder = _decoder(packets, limits)
        try:
            for run, goals in packets.runs(wanted, keyframes):
                yield from ((f.pts, f) for f in _decoded(file, decoder, packets, run, goals))
        except BaseException:  # left half-way: the next video gets another
            _thread.decoders.clear()
            raise
    finally:
        os.close(file)


def _decoded(file: int, decoder: Any, packets: Packets, run: range, goals: set[int]) -> Iterator[Any]:
    import av

    decoder.flush_buffers()
    disposes = packets.codec in DISPOSES
    part = slice(run.start, run.stop)
    where = zip(*(numbers[part].tolist() for numbers in (packets.places, packets.sizes, packets.offsets)), strict=True)
    for place, size, offset in where:
        packet = av.Packet(os.pread(file, size, offset))
        packet.pts = packet.dts = place
        if disposes:
            decoder.skip_frame = "DEFAULT" if place in goals else "NONREF"
        yield from (frame for frame in decoder.decode(packet) if frame.pts in goals)
    yield from (frame for frame in decoder.decode(None) if frame.pts in goals)


def _decoder(packets: Packets, limits: dict[str, str]) -> Any:
    """A decoder with these settings, the same one again if it was of late in use."""
    import av

    kept: Any = getattr(_thread, "decoders", OrderedDict())
    _thread.decoders = kept
    key = (packets.codec, packets.extradata, packets.colours, *limits.items())
    if key not in kept:
        decoder: Any = av.CodecContext.create(packets.codec, "r")
        decoder.extradata = packets.extradata
        decoder.thread_count = 1
        # Strict, so that the order of showing is never guessed from the first few frames, and frames lost to it.
        decoder.options = {**limits, "strict": "1"}
        for name, value in zip(COLOURS, packets.colours, strict=True):
            setattr(decoder, name, value)
        kept[key] = decoder
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return kept[key]
