"""Find videos and pictures that no reader reads, by suffix or first bytes, so that none is left out silently."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from dila.data import frames, video
from dila.data.reading import Skipped
from dila.errors import refuse_shortage

VIDEOS = frozenset({".asf", ".divx", ".dv", ".f4v", ".m1v", ".m2v", ".mxf", ".ogm", ".ogv", ".rm", ".rmvb", ".vob"})
PICTURES = frozenset({".avif", ".exr", ".heic", ".heif", ".jp2", ".jxl", ".pgm", ".ppm", ".tga"})
"""Suffixes of media that are not read."""
STARTS = {
    b"\x1aE\xdf\xa3": "video",  # Matroska
    b"FLV\x01": "video",
    b"\x00\x00\x01\xba": "video",  # MPEG
    b"\x00\x00\x01\xb3": "video",
    b"0&\xb2u\x8ef\xcf\x11": "video",  # Windows Media
    b"GIF8": "video",
    b"\xff\xd8\xff": "picture",  # JPEG
    b"\x89PNG\r\n": "picture",
    b"II*\x00": "picture",  # TIFF
    b"MM\x00*": "picture",
}
STILL = (b"heic", b"heix", b"mif1", b"avif")
SOUND = (b"M4A ", b"M4B ")
"""Brands of mp4 files that hold no video."""
HEAD = 200
"""Bytes read of a file: two packets of MPEG-TS."""


def unread(folder: Path, files: Sequence[Path]) -> Iterator[Skipped]:
    """Describe the media among files of a folder that no reader claims; a single picture is a thumbnail."""
    pictures = []
    for file in files:
        kind = None if file.suffix.lower() in frames.SUFFIXES else _kind(file)
        if kind == "video":
            suffixes = " ".join(sorted(video.SUFFIXES))
            reason = f"{file} looks like a video, but its suffix is none of {suffixes}; rename or convert it"
            yield Skipped(file, reason, fault=False)
        elif kind == "picture":
            pictures.append(file)
    if len(pictures) > 1:
        suffixes = " ".join(sorted(frames.SUFFIXES))
        reason = (
            f"{folder} has {len(pictures)} pictures, such as {pictures[0].name}, whose suffix is none of {suffixes}; "
            "rename or convert them"
        )
        yield Skipped(folder, reason, fault=False)


def _kind(file: Path) -> str | None:
    """Return ``video`` or ``picture`` if the file looks like one, else None."""
    suffix = file.suffix.lower()
    if suffix in VIDEOS | PICTURES:
        return "video" if suffix in VIDEOS else "picture"
    try:
        if not file.is_file():  # a pipe would block
            return None
        with file.open("rb", buffering=0) as opened:
            return judge(opened.read(HEAD))
    except OSError as error:
        refuse_shortage(error)
        return None


def judge(head: bytes) -> str | None:
    """Return ``video`` or ``picture`` if the first bytes of a file are those of one, else None."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat"):
        brand = head[8:12]
        return None if brand in SOUND else "picture" if brand in STILL else "video"
    if head[:4] == b"RIFF":
        return {b"AVI ": "video", b"WEBP": "picture"}.get(head[8:12])
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "picture"
    if head[:1] + head[188:189] == b"GG" or head[4:5] + head[196:197] == b"GG":  # MPEG-TS, plain or with time codes
        return "video"
    return next((kind for start, kind in STARTS.items() if head.startswith(start)), None)
