"""Decode frames of a video from the bytes of its packets, without opening the container each time.

Opening a file costs as much as decoding six of its frames (docs/log.md), because FFmpeg decodes one to find out what
`dila.data.probe_video` has already recorded. Instead, the packets that a clip needs are read from their offsets in the
file and passed to a decoder, which is cached for all videos with the same settings:

- every packet that the wanted frames depend on, and none after the last of them: the decoder is flushed instead;
- frames that are not wanted and that no other frame refers to (disposable B-frames of H.264) are not decoded.

This is used only where it is known to be exact: mp4, mov, WebM and Matroska, without rotation, with packets stored
exactly as they are decoded, and a file unchanged since it was probed. Everything else, and every failure, falls back to
opening the container, which reports the errors.
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
"""Codecs whose decoded frames carry the timestamp of their packet, also with B-frames."""
DISPOSES = frozenset({"h264"})
"""Codecs whose decoder, with ``skip_frame`` NONREF, skips exactly the frames that no other frame refers to."""
CONTAINERS = ("mov", "matroska")
"""Prefixes of FFmpeg's names of the supported containers."""
LEAD = 16
"""Maximum bytes between the position that a container reports for a packet and its contents (Matroska: 4)."""
COLOURS = ("color_range", "colorspace", "color_primaries", "color_trc")
"""Colour properties that may be stored in the container only."""
MAX_FRAMES = 20_000_000
"""Maximum frames of an episode and rows of a table: about four days at 60 frames a second."""
KEPT = 4
"""Decoders cached per thread."""

_thread = threading.local()


@dataclass(frozen=True, eq=False)
class Packets:
    """Positions of the packets of a video in its file, in decoding order."""

    codec: str
    extradata: bytes
    """Codec configuration that the decoder needs before the first packet."""
    colours: tuple[int, ...]
    """Values of the properties in `COLOURS`."""
    places: np.ndarray
    """Index, in presentation order, of the frame in each packet (int64)."""
    turns: np.ndarray
    """The inverse: index of the packet of each frame (int64)."""
    offsets: np.ndarray
    """Bytes from the start of the file (int64)."""
    sizes: np.ndarray
    """Bytes (int64)."""
    stamp: tuple[int, int]
    """Modification time and size of the file when it was probed."""

    def runs(self, wanted: Sequence[int], keyframes: np.ndarray) -> Iterator[tuple[range, set[int]]]:
        """Yield ranges of packets to decode in sequence, and the frames wanted from each (`wanted`: sorted, unique)."""
        goals, turns = list(wanted), self.turns[wanted].tolist()
        keys = keyframes[np.searchsorted(keyframes, goals, "right") - 1].tolist()
        begin = 0
        for end in range(1, len(goals) + 1):
            if end == len(goals) or keys[end] > goals[end - 1] + 1:
                first = int(self.turns[keys[begin]]) if keys[begin] else 0
                yield range(first, max(turns[begin:end]) + 1), set(goals[begin:end])
                begin = end


class _Notes:
    """Records the positions of packets while a file is demuxed."""

    def __init__(self, file: BinaryIO, container: Any, stream: Any):
        context, name = stream.codec_context, container.format.name
        self.usable = name.startswith(CONTAINERS) and context.codec.name in CODECS
        self.file, self.codec = file, context.codec.name
        self.extradata = bytes(context.extradata or b"")
        self.colours = tuple(int(getattr(context, name)) for name in COLOURS)
        self.lead = -1
        # In mp4 all packets are stored like the first; in Matroska each packet may be stored differently.
        self.each = not name.startswith("mov")
        self.ticks: list[Any] = []
        self.offsets: list[Any] = []
        self.sizes: list[Any] = []

    def note(self, packet: Any) -> None:
        """Record one packet; if it cannot be used, mark the whole file as unusable."""
        odd = packet.is_discard or packet.pts is None or packet.has_sidedata("new_extradata")
        if not self.usable or odd or packet.pos is None or not self._as_stored(packet):
            self.usable = False
            return
        self.ticks.append(packet.pts)
        self.offsets.append(packet.pos + self.lead)
        self.sizes.append(packet.size)

    def _as_stored(self, packet: Any) -> bool:
        """Whether the bytes in the file are those to decode, that is, not encrypted or compressed."""
        if self.offsets and not self.each:
            return True
        self.file.seek(packet.pos)
        found = self.file.read(packet.size + LEAD).find(bytes(packet))
        if not self.offsets:
            self.lead = found
        return found == self.lead >= 0

    def result(self) -> Packets | None:
        """Return the positions of all packets, or None if frames have to be read through the container."""
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
    """Return the sorted presentation times of all frames in ticks, which are keyframes, and the packets if usable.

    Packets are not kept in memory, since a video may have gigabytes.

    Args:
        path: the file.
        container: the opened file, demuxed from its current position.
        stream: the video stream.
        last: tick after which no frame is needed.

    Raises:
        DilaError: the video is truncated, damaged, without times, or too long.
    """
    if stream.frames > MAX_FRAMES:
        raise DilaError(f"{path} declares {stream.frames:,} frames, more than {MAX_FRAMES:,}; split it")
    pts, key, found = [], [], 0
    with path.open("rb", buffering=0) as file:
        notes = _Notes(file, container, stream)
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.dts is not None and packet.dts > last:  # this and all later packets are shown after `last`
                break
            found += 1
            notes.note(packet)
            if packet.is_corrupt:
                raise DilaError(f"{path} is damaged or truncated; replace or remove it")
            if found > MAX_FRAMES:
                raise DilaError(f"{path} has more than {MAX_FRAMES:,} frames; split it")
            if not packet.is_discard:  # an edit list discards packets
                pts.append(packet.pts if packet.pts is not None else packet.dts)
                key.append(packet.is_keyframe)
        packets = notes.result()
    if not pts:
        raise DilaError(f"{path} has no frames; replace or remove it")
    if last == inf and found < stream.frames:
        raise DilaError(f"{path} is truncated: it has {found} of {stream.frames} frames; replace or remove it")
    if any(t is None for t in pts) or len(set(pts)) != len(pts):
        raise DilaError(f"{path} has frames without a time of their own; remux it, for example with ffmpeg, to mp4")
    ticks = np.array(pts, dtype=np.int64)
    order = np.argsort(ticks)
    return ticks[order], np.array(key)[order], packets


def decode_packets(
    path: Path, packets: Packets, keyframes: np.ndarray, wanted: Sequence[int], limits: dict[str, str]
) -> Iterator[tuple[int, Any]]:
    """Yield the wanted frames with their indices, in any order; frames that do not decode are missing.

    Args:
        path: the file.
        packets: the positions of its packets.
        keyframes: indices of the keyframes.
        wanted: indices of frames in presentation order, sorted and unique.
        limits: options of the decoder.

    Raises:
        av.FFmpegError, OSError: a packet does not decode, or the file is gone.
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
        except BaseException:  # the decoders may be in any state now, so discard them
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
    """Return a decoder with these settings, cached per thread."""
    import av

    kept: Any = getattr(_thread, "decoders", OrderedDict())
    _thread.decoders = kept
    key = (packets.codec, packets.extradata, packets.colours, *limits.items())
    if key not in kept:
        decoder: Any = av.CodecContext.create(packets.codec, "r")
        decoder.extradata = packets.extradata
        decoder.thread_count = 1
        # Otherwise H.264 guesses the reordering depth from the first few frames, and may drop frames.
        decoder.options = {**limits, "strict": "1"}
        for name, value in zip(COLOURS, packets.colours, strict=True):
            setattr(decoder, name, value)
        kept[key] = decoder
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)
    return kept[key]
