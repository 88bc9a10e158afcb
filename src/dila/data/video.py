"""Video files: probing, reading chosen frames, writing. PyAV only (https://pyav.basswood-io.com), one thread a process.

A file is read in two steps. `probe_video` walks the packets without decoding them and keeps the true presentation
time of every frame, so a variable frame rate is no special case. `read_video` then seeks to the keyframe at or before
each wanted frame, so reading late in a long video does not decode it from the start.

A file that was cut short is unreadable as a whole where the container says what it should hold (mp4, mov, avi, gif):
`probe_video` raises, and `dila.data.open_corpus` lists it as skipped. WebM and Matroska are streams without such a
promise: of a cut one, the whole frames before the cut are used. Frames are never made up.
"""

import hashlib
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
from dila.files import check_there, replacing
from dila.shapes import Tensor, UInt8

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif"})
MAX_SIDE = 16_384
MAX_PIXELS = 64_000_000
LIMITS = {"max_pixels": str(MAX_PIXELS)}  # options of a decoder
SAMPLE_BYTES = 65_536
# Files are opened by content, whatever their suffix: without this a "video" could be a playlist that opens others.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"

# Without mbtree=0 the same frames of 64 pixels or less give files that differ from run to run (by up to 30 grey levels
# once decoded): the rate control of x264 reads something unset there. A recording has to be the same for the same seed.
X264 = {"crf": "16", "preset": "veryfast", "g": "16", "x264-params": "mbtree=0"}

_thread = threading.local()


@dataclass(frozen=True, eq=False)
class VideoInfo:
    """What the packets of a video tell: all that random access needs."""

    times: np.ndarray
    """Seconds of each frame from the first (float64), strictly increasing."""
    pts: np.ndarray | None
    """The same in the ticks of the stream, as stored (int64); None where the container does not store them, so that
    frames have to be counted from the start (AVI with B-frames)."""
    keyframes: np.ndarray
    """Indices of the frames that decode without others (int64); the first is 0."""
    seeks: np.ndarray
    """What the container is asked to seek to for each keyframe, in ticks: when it is shown (int64). Asked for the time
    at which it is decoded, mp4 and Matroska go to the keyframe before it."""
    size: tuple[int, int]
    """Rows and columns of pixels after rotation."""
    tick: float = 0.0
    """Seconds of one of the stream's ticks."""
    packets: Packets | None = None
    """Where the packets lie, if frames can be read from there."""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def stored(self) -> np.ndarray | None:
        """Seconds of each frame as the file has them, whatever `times` are; None where it was counted."""
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
        """The frames with these indices, RGB; raises `DilaError` when the file no longer decodes."""
        return read_video(self.path, frames, self.info)

    def fingerprint(self) -> str:
        """Hash of the size and of the head, middle and tail of the file: the same after a copy, new after an edit."""
        return hash_file(self.path)


def claims(path: Path) -> bool:
    """Whether this reader takes the path: a file with the suffix of a video."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def episodes(path: Path, name: str, fps: int | float | None) -> Iterator[VideoEpisode]:
    """The one episode of a video file; `fps`, when given, replaces the file's own times by even ones.

    Raises:
        DilaError: the file is not a readable video.
    """
    info = PROBE.get()(path)
    if fps is not None:
        info = replace(info, times=np.arange(len(info)) / fps)
    yield VideoEpisode(name, path, info)


def probe_video(path: str | Path) -> VideoInfo:
    """Walk the packets of a video and decode its first frame, to learn its true size and that it decodes at all.

    Raises:
        DilaError: missing, empty, cut short, without video, undecodable, or larger than 16384 pixels a side or 64
            million pixels in all (checked before anything is decoded).
    """
    path = Path(path)
    _check_file(path)
    with opened(path) as (container, stream):
        ticks, key, packets = list_packets(path, container, stream)
        key[0] = True
        tick = float(stream.time_base)
        times = (ticks - ticks[0]) * tick
        counted = container.format.name == "avi" and stream.codec_context.has_b_frames
    with opened(path) as (container, stream):
        first = next(container.decode(stream), None)
        if first is None:
            raise DilaError(f"{path} holds no frame that decodes; replace or remove it")
        turned = round(first.rotation / 90) % 2
        size = (first.width, first.height) if turned else (first.height, first.width)
    if counted:
        return VideoInfo(times, None, np.zeros(1, dtype=np.int64), ticks[:1], (size[0], size[1]))
    keyframes = np.flatnonzero(key)
    packets = None if first.rotation else packets
    return VideoInfo(times, ticks, keyframes, ticks[keyframes], (size[0], size[1]), tick, packets)


PROBE: ContextVar[Callable[[Path], VideoInfo]] = ContextVar("probe", default=probe_video)
"""What `episodes` learns of a file by; `dila.data.probed` puts its memory here."""


def read_video(path: str | Path, frames: Sequence[int], info: VideoInfo | None = None) -> UInt8[Tensor, "N 3 Y X"]:
    """Frames of a video by index, in the order asked, RGB, upright (rotation metadata is applied).

    Args:
        path: the file.
        frames: indices in presentation order, 0 .. len(info) - 1; repeats are fine.
        info: what `probe_video` gave, to save probing again.

    Raises:
        DilaError: the file is unreadable, or an index lies outside it.
    """
    path = Path(path)
    info = probe_video(path) if info is None else info
    wanted = check_inside(str(path), frames, len(info))
    if (read := read_packets(path, wanted, info)) is not None:
        return read
    if (read := read_fast(path, wanted, info)) is not None:
        return read
    read = _gathered(_decode(path, info, sorted(set(wanted))), wanted, info.size)
    assert read is not None  # of what is missing, decoding tells
    return read


def read_packets(path: Path, frames: Sequence[int], info: VideoInfo) -> UInt8[Tensor, "N 3 Y X"] | None:
    """What `read_video` gives, from packets alone; None where the container has to be asked."""
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
    """Pictures with the numbers of their frames, in the rows where these are wanted; None where one is missing."""
    rows: dict[int, list[int]] = {}
    for row, index in enumerate(frames):
        rows.setdefault(index, []).append(row)
    # Channels last in memory, as pictures are decoded: whoever stacks clips copies them once, not twice.
    out = room.make((len(frames), *size, 3))
    for index, picture in pictures:
        for row in rows.pop(index, ()):
            out[row] = picture
    return None if rows else torch.from_numpy(out).permute(0, 3, 1, 2)


def write_video(path: str | Path, frames: UInt8[Tensor, "T 3 Y X"] | np.ndarray, fps: int | float) -> None:
    """Write frames as .mp4 (H.264, yuv420p, crf 16, a keyframe every 16 frames) or .gif, whole or not at all.

    H.264 wants even sides: an odd side is widened by repeating its last row or column. A GIF counts time in
    hundredths of a second, so its frame rate is rounded, and equal neighbouring frames are merged into a longer one.

    Raises:
        DilaError: no frames or other things than frames, `fps` not positive, another suffix, or the file cannot be
            written.
    """
    path = Path(path)
    writers = {".mp4": write_mp4, ".gif": _write_gif}
    if path.suffix.lower() not in writers:
        raise DilaError(f"{path} must end in .mp4 or .gif to be written as video")
    pictures = as_film(path, frames, fps).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with replacing(path, shared=True) as partial:
        writers[path.suffix.lower()](partial, pictures, fps)


def hash_file(path: Path) -> str:
    """Short hash of a file: its size and three samples of 64 KiB.

    Raises:
        DilaError: the file is gone or cannot be read.
    """
    try:
        size = path.stat().st_size
        digest = hashlib.blake2b(str(size).encode(), digest_size=12)
        with path.open("rb") as file:
            for start in (0, max(0, size // 2 - SAMPLE_BYTES // 2), max(0, size - SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        refuse_shortage(error)
        raise DilaError(f"{path} cannot be read: {_reason(error)}") from error
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container of a file and its first video stream, limits checked; errors of FFmpeg become a `DilaError`.

    Opened for every clip: containers that were kept open from clip to clip were a fifth quicker where videos are few,
    and left holes in memory that grew by megabytes in a thousand clips (docs/log.md).
    """
    import av

    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(address(path), container_options=options, **_strange_tags(av.__version__)) as container:
            # A cover picture is a stream of type video too.
            streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                raise DilaError(f"{path} holds no video stream; give a video file")
            stream = streams[0]
            if stream.codec_context is None:
                raise DilaError(f"{path} is coded in a way that nothing here decodes; convert it, for example to mp4")
            check_size(path, stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.thread_count = 1
            # What the container says is not what the stream may say half-way through.
            stream.codec_context.options = LIMITS
            yield container, stream
    except (av.FFmpegError, UnicodeDecodeError, OSError) as error:
        if not (isinstance(error, MemoryError) and _has_room()):
            refuse_shortage(error)
        if isinstance(error, av.FFmpegError | UnicodeDecodeError):
            raise DilaError(f"{path} is not a readable video ({_reason(error)}); replace or remove it") from error
        raise DilaError(f"{path} cannot be read: {_reason(error)}") from error


def address(path: Path) -> str:
    """A path as FFmpeg takes it, which has what stands before a colon for a protocol."""
    return f"file:{path}"


def _strange_tags(version: str) -> dict[str, Any]:
    """What lets PyAV read a file whose tags are no text; from 19 on it always does, and takes no such argument."""
    return {"metadata_errors": "replace"} if int(version.split(".")[0]) < 19 else {}


def _has_room() -> bool:
    """Whether there is memory for the largest picture: what had none then wanted what a damaged file claims."""
    with suppress(MemoryError):
        return len(bytearray(4 * MAX_PIXELS)) > 0
    return False


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


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
                raise DilaError(f"{path} is cut short: its end mark is missing; replace or remove it")


def check_size(where: str | Path, width: int, height: int) -> None:
    """Refuse a picture that nobody means, before it is decoded.

    Raises:
        DilaError: it claims more than 16384 pixels a side, or 64 million in all.
    """
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise DilaError(
            f"{where} claims {width} x {height} pixels, more than {MAX_SIDE} a side or {MAX_PIXELS:,} in all; "
            "scale it down"
        )


def _decode(path: Path, info: VideoInfo, wanted: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Pictures of the wanted frames (sorted, unique), seeking wherever a keyframe lies between two of them."""
    with opened(path) as (container, stream):
        walk, position = None, -1
        for goal in wanted:
            key = int(np.searchsorted(info.keyframes, goal, side="right")) - 1
            if walk is None or info.keyframes[key] > position + 1:
                walk = _walk(container, stream, info, key, position)
            position, frame = next((at for at in walk if at[0] >= goal), (-1, None))
            back = 1
            while position != goal and key > 0:  # sought past it, or to where not all decodes at once
                key, back = max(0, key - back), 2 * back
                walk = _walk(container, stream, info, key, -1)
                position, frame = next((at for at in walk if at[0] >= goal), (-1, None))
            if position != goal:
                raise DilaError(f"{path} does not decode at frame {goal}; replace or remove it")
            yield goal, _picture(frame, info.size)


def _walk(container: Any, stream: Any, info: VideoInfo, key: int, position: int) -> Iterator[tuple[int, Any]]:
    """Frames with their numbers, from a keyframe on, or from one before it."""
    container.seek(int(info.seeks[key]), stream=stream, backward=True)
    for frame in container.decode(stream):
        position = position + 1 if info.pts is None else _place(info.pts, _ticks(frame), position)
        yield position, frame


def _place(pts: np.ndarray, ticks: int, otherwise: int) -> int:
    """Number of the frame with this time, mostly the one after `otherwise`."""
    if otherwise + 1 < len(pts) and pts[otherwise + 1] == ticks:
        return otherwise + 1
    place = int(np.searchsorted(pts, ticks))
    return place if place < len(pts) and pts[place] == ticks else otherwise


def _ticks(frame: Any) -> int:
    return frame.dts if frame.pts is None else frame.pts


def _picture(frame: Any, size: tuple[int, int] | None = None) -> np.ndarray:
    """RGB ``Y X 3`` of a decoded frame, upright, of the given size even where the stream changes size on its way."""
    turns = round(frame.rotation / 90) % 4
    rows, columns = (frame.height, frame.width) if size is None else size if turns % 2 == 0 else size[::-1]
    # One thread: to start as many as there are cores, as PyAV does, takes many times what a small frame does.
    picture = _converter().reformat(frame, columns, rows, "rgb24", threads=1).to_ndarray()
    return np.rot90(picture, turns) if turns else picture


def _converter() -> Any:
    """Its tables are made once for frames that are alike, not for every frame."""
    if (kept := getattr(_thread, "converter", None)) is None:
        from av.video.reformatter import VideoReformatter

        kept = _thread.converter = VideoReformatter()
    return kept


def write_mp4(path: Path, pictures: Iterable[np.ndarray], fps: int | float) -> None:
    """Encode pictures ``Y X 3``, one at a time, straight to the path: `write_video` does it whole or not at all."""
    import av

    path.touch()  # where that fails, FFmpeg would not say of what
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
