"""Video files: probe, read given frames, write. Uses PyAV (https://pyav.basswood-io.com) with one thread per process.

A file is read in two steps. `probe_video` walks the packets without decoding them and records the presentation time of
every frame, so a variable frame rate is not a special case. `read_video` then seeks to the keyframe at or before each
wanted frame, so reading late in a long video does not decode it from the start.

A truncated file is unreadable if its container declares what it should hold (mp4, mov, 3gp, avi, gif): `probe_video`
raises, and `dila.data.open_corpus` lists it as skipped. WebM, Matroska, MPEG, WMV and FLV do not declare it; of these,
the complete frames before the cut are used, unless the cut damages a frame. No frame is ever invented.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dila.data import room
from dila.data.fast_video import read_fast
from dila.data.given import as_film
from dila.data.packets import Packets, decode_packets, list_packets
from dila.errors import DilaError, check_inside, refuse_shortage
from dila.files import check_there, hash_file, replacing
from dila.shapes import Tensor, UInt8

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"}
) | {".3gp"}
SEQUENTIAL = frozenset({"mpeg", "mpegts", "asf"})
"""Containers in which FFmpeg does not find the frame it seeks, so that reading begins at the first frame."""
MAX_SIDE = 16_384
MAX_PIXELS = 64_000_000
LIMITS = {"max_pixels": str(MAX_PIXELS)}  # decoder options
# FFmpeg goes by content, whatever the suffix: without this list, a "video" could be a playlist that opens other files.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,flv,mpeg,mpegts,asf"

# Without mbtree=0, encoding frames of 64 pixels or less is not deterministic (decoded frames differ by up to 30 grey
# levels): x264's rate control reads uninitialised memory. The same seed has to give the same recording.
X264 = {"crf": "16", "preset": "veryfast", "g": "16", "x264-params": "mbtree=0"}

_thread = threading.local()


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What random access to the frames of a video needs, as read from its packets."""

    times: np.ndarray
    """Seconds of each frame from the first (float64), strictly increasing."""
    pts: np.ndarray | None
    """Presentation times in ticks of the stream (int64); None if the container does not store them, so that frames
    have to be counted from the start (AVI with B-frames)."""
    keyframes: np.ndarray
    """Indices of the keyframes that reading can begin at (int64); the first is 0."""
    seeks: np.ndarray
    """Seek target of each keyframe in ticks: its presentation time (int64). Given the decoding time, mp4 and Matroska
    would seek to the keyframe before it."""
    size: tuple[int, int]
    """Rows and columns of pixels after rotation."""
    tick: float = 0.0
    """Seconds per tick of the stream."""
    packets: Packets | None = None
    """Positions of the packets, if frames can be decoded from them directly."""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def stored(self) -> np.ndarray | None:
        """Times in seconds as stored in the file, whatever `times` are; None if the file stores none."""
        return None if self.pts is None else (self.pts - self.pts[0]) * self.tick


@dataclass(frozen=True, eq=False)
class VideoEpisode:
    """One video file as a `dila.protocols.Episode`."""

    id: str
    path: Path
    info: VideoInfo
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def times(self) -> np.ndarray:
        """Seconds of each frame from the first."""
        return self.info.times

    def read(self, frames: Sequence[int]) -> UInt8[Tensor, "N 3 Y X"]:
        """Read the frames with these indices, RGB; raises `DilaError` if the file no longer decodes."""
        return read_video(self.path, frames, self.info)

    def fingerprint(self) -> str:
        """Hash the size, head, middle and tail of the file: the same after a copy, different after an edit."""
        return hash_file(self.path)


def claims(path: Path) -> bool:
    """Whether the path is a file with a suffix in `SUFFIXES`, unless it is a ``.ts`` of TypeScript."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES and path.is_file() and not (suffix == ".ts" and _is_text(path))


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[VideoEpisode]:
    """Yield the one episode of a video file; `fps`, if given, replaces the times of the file with even ones.

    Raises:
        DilaError: the file is not a readable video.
    """
    info = PROBE.get()(path)
    if fps is not None:
        info = replace(info, times=np.arange(len(info)) / fps)
    yield VideoEpisode(name, path, info)


def probe_video(path: str | Path) -> VideoInfo:
    """Walk the packets of a video, and decode its first frame to get its size and check that it decodes.

    Raises:
        DilaError: missing, empty, truncated, without video, undecodable, or larger than 16384 pixels a side or 64
            million pixels in all (checked before anything is decoded).
    """
    path = Path(path)
    _check_file(path)
    with opened(path) as (container, stream):
        ticks, key, packets = list_packets(path, container, stream)
        key[0] = True
        tick = float(stream.time_base)
        times = (ticks - ticks[0]) * tick
        kind = container.format.name
        counted = kind == "avi" and stream.codec_context.has_b_frames
    with opened(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DilaError(f"{path} has no frame that can be decoded; replace or remove it")
        turned = round(first.rotation / 90) % 2
        size = (first.width, first.height) if turned else (first.height, first.width)
    if counted:
        return VideoInfo(times, None, np.zeros(1, dtype=np.int64), ticks[:1], (size[0], size[1]))
    keyframes = np.flatnonzero(key)[: 1 if kind in SEQUENTIAL else None]
    packets = None if first.rotation else packets
    return VideoInfo(times, ticks, keyframes, ticks[keyframes], (size[0], size[1]), tick, packets)


PROBE: ContextVar[Callable[[Path], VideoInfo]] = ContextVar("probe", default=probe_video)
"""The probe function that `episodes` calls; `dila.data.probed` sets a cached one."""


def read_video(path: str | Path, frames: Sequence[int], info: VideoInfo | None = None) -> UInt8[Tensor, "N 3 Y X"]:
    """Read frames of a video by index, in the given order, RGB, with rotation metadata applied.

    Args:
        path: the file.
        frames: indices in presentation order, 0 .. len(info) - 1; repeats are fine.
        info: result of `probe_video`, to avoid probing again.

    Raises:
        DilaError: the file is unreadable, or an index is out of range.
    """
    path = Path(path)
    info = probe_video(path) if info is None else info
    wanted = check_inside(str(path), frames, len(info))
    if (read := read_packets(path, wanted, info)) is not None:
        return read
    if (read := read_fast(path, wanted, info)) is not None:
        return read
    read = _gathered(_decode(path, info, sorted(set(wanted))), wanted, info.size)
    assert read is not None  # _decode raises if a frame is missing
    return read


def read_packets(path: Path, frames: Sequence[int], info: VideoInfo) -> UInt8[Tensor, "N 3 Y X"] | None:
    """Read frames as `read_video` does, from packets alone; None if the container has to be opened."""
    import av

    if info.packets is None or not frames:
        return None
    decoded = decode_packets(path, info.packets, info.keyframes, sorted(set(frames)), LIMITS)
    try:
        return _gathered(((index, _picture(frame, info.size)) for index, frame in decoded), frames, info.size)
    except (av.FFmpegError, OSError):
        return None


def _gathered(
    pictures: Iterable[tuple[int, np.ndarray]], frames: Sequence[int], size: tuple[int, int]
) -> UInt8[Tensor, "N 3 Y X"] | None:
    """Stack pictures, given with their frame indices, in the order of `frames`; None if one is missing."""
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(frames):
        rows.setdefault(index, []).append(row)
    # Channels last in memory, as decoded, so that stacking clips takes one copy instead of two.
    out = room.make((len(frames), *size, 3))
    for index, picture in pictures:
        for row in rows.pop(index, ()):
            out[row] = picture
    return None if rows else torch.from_numpy(out).permute(0, 3, 1, 2)


def write_video(path: str | Path, frames: UInt8[Tensor, "T 3 Y X"] | np.ndarray, fps: int | float) -> None:
    """Write frames atomically as .mp4 (H.264, yuv420p, crf 16, a keyframe every 16 frames) or .gif.

    H.264 needs even sides: an odd side is extended by repeating its last row or column. A GIF stores times in
    hundredths of a second, so its frame rate is rounded, and equal neighbouring frames are merged into a longer one.

    Raises:
        DilaError: `frames` are not frames or are empty, `fps` is not positive, the suffix is another one, or the file
            cannot be written.
    """
    path = Path(path)
    writers = {".mp4": write_mp4, ".gif": _write_gif}
    if path.suffix.lower() not in writers:
        raise DilaError(f"{path} cannot be written as a video; its name must end in .mp4 or .gif")
    pictures = as_film(path, frames, fps).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with replacing(path, shared=True) as partial:
        writers[path.suffix.lower()](partial, pictures, fps)


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open the container of a file and its first video stream and check limits; FFmpeg errors become `DilaError`.

    It is opened anew for every clip: caching open containers was a fifth faster with few videos, but memory
    fragmentation grew by megabytes per thousand clips (docs/log.md).
    """
    import av

    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(address(path), container_options=options, **_strange_tags(av.__version__)) as container:
            # A cover picture is also a stream of type video.
            streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                raise DilaError(f"{path} has no video stream; give a video file")
            stream = streams[0]
            if stream.codec_context is None:
                raise DilaError(f"{path} uses a codec that PyAV cannot decode; convert it, for example to H.264 in mp4")
            check_size(path, stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.thread_count = 1
            # The stream may change to a larger size than its container declares.
            stream.codec_context.options = LIMITS
            yield container, stream
    except (av.FFmpegError, UnicodeDecodeError, OSError) as error:
        if not (isinstance(error, MemoryError) and _has_room()):
            refuse_shortage(error)
        if isinstance(error, av.FFmpegError | UnicodeDecodeError):
            raise DilaError(f"{path} is not a readable video ({_reason(error)}); replace or remove it") from error
        raise DilaError(f"{path} cannot be read: {_reason(error)}") from error


def address(path: Path) -> str:
    """Return a path as FFmpeg expects it: without the prefix, text before a colon would be taken as a protocol."""
    return f"file:{path}"


def _strange_tags(version: str) -> dict[str, Any]:
    """Return the argument that makes PyAV accept tags that are not text; from version 19 on it always does."""
    return {"metadata_errors": "replace"} if int(version.split(".")[0]) < 19 else {}


def _has_room() -> bool:
    """Whether there is memory for the largest picture: if so, a `MemoryError` comes from absurd sizes in the file."""
    with suppress(MemoryError):
        return len(bytearray(4 * MAX_PIXELS)) > 0
    return False


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _is_text(path: Path) -> bool:
    with path.open("rb", buffering=0) as file:
        return file.read(1).isascii() and b"\0" not in file.read(4096)


def _check_file(path: Path) -> None:
    check_there(path)
    if not path.is_file():
        raise DilaError(f"{path} is not a file; give a video file")
    size = path.stat().st_size
    if size == 0:
        raise DilaError(f"{path} is empty; replace or remove it")
    if path.suffix.lower() == ".gif":
        with path.open("rb") as file:
            file.seek(max(0, size - 16))
            if b";" not in file.read():
                raise DilaError(f"{path} is truncated: its end marker is missing; replace or remove it")


def check_size(where: str | Path, width: int, height: int) -> None:
    """Check the declared size of a picture before it is decoded.

    Raises:
        DilaError: it is more than 16384 pixels a side, or 64 million in all.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DilaError(
            f"{where} declares {width} x {height} pixels, more than {MAX_SIDE} a side or {MAX_PIXELS:,} in all; "
            "scale it down"
        )


def _decode(path: Path, info: VideoInfo, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the wanted frames (sorted, unique) with their indices, seeking if a keyframe lies between two of them."""
    with opened(path) as (container, stream):
        walk, position = None, -1
        for goal in wanted:
            key = int(np.searchsorted(info.keyframes, goal, side="right")) - 1
            if walk is None or info.keyframes[key] > position + 1:
                walk = _walk(container, stream, info, key, position)
            position, frame = next((at for at in walk if at[0] >= goal), (-1, None))
            back = 1
            while position != goal and key > 0:  # the seek went too far, or decoding needs earlier frames
                key, back = max(0, key - back), 2 * back
                walk = _walk(container, stream, info, key, -1)
                position, frame = next((at for at in walk if at[0] >= goal), (-1, None))
            if position != goal:
                raise DilaError(f"{path} cannot be decoded at frame {goal}; replace or remove it")
            yield goal, _picture(frame, info.size)


def _walk(container: Any, stream: Any, info: VideoInfo, key: int, position: int) -> Iterator[tuple[int, Any]]:
    """Yield frames with their indices, starting at a keyframe or at one before it."""
    if len(info.keyframes) > 1:  # else the container was just opened, and stands at the first
        container.seek(int(info.seeks[key]), stream=stream, backward=True)
    for frame in container.decode(stream):
        position = position + 1 if info.pts is None else _place(info.pts, _ticks(frame), position)
        yield position, frame


def _place(pts: np.ndarray, ticks: int, otherwise: int) -> int:
    """Return the index of the frame with this time, usually `otherwise` + 1."""
    if otherwise + 1 < len(pts) and pts[otherwise + 1] == ticks:
        return otherwise + 1
    place = int(np.searchsorted(pts, ticks))
    return place if place < len(pts) and pts[place] == ticks else otherwise


def _ticks(frame: Any) -> int:
    return frame.dts if frame.pts is None else frame.pts


def _picture(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert a decoded frame to RGB ``Y X 3``, upright and of the given size, even if the stream changes size."""
    turns = round(frame.rotation / 90) % 4
    rows, columns = (frame.height, frame.width) if size is None else size if turns % 2 == 0 else size[::-1]
    # One thread: starting one per core, PyAV's default, takes many times longer than converting a small frame.
    picture = _converter().reformat(frame, columns, rows, "rgb24", threads=1).to_ndarray()
    return np.rot90(picture, turns) if turns else picture


def _converter() -> Any:
    """Return the thread's converter, which reuses its lookup tables for frames of the same format."""
    if (kept := getattr(_thread, "converter", None)) is None:
        from av.video.reformatter import VideoReformatter

        kept = _thread.converter = VideoReformatter()
    return kept


def write_mp4(path: Path, pictures: Iterable[np.ndarray], fps: int | float) -> None:
    """Encode pictures ``Y X 3``, one at a time, directly to the path; `write_video` writes atomically."""
    import av

    path.touch()  # raises a clear error; FFmpeg's would not name the file
    with av.open(address(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1_001), options=X264)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in pictures:
            picture = np.pad(picture, [(0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)], mode="edge")
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _write_gif(path: Path, pictures: np.ndarray, fps: int | float) -> None:
    from PIL import Image

    images = [Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE) for picture in pictures]
    duration = max(10, round(100 / fps) * 10)
    images[0].save(
        path, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=True
    )
