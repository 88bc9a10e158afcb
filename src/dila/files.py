"""Files that are written whole or not at all, and what a user is told when the disk refuses."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import strerror
from pathlib import Path
from typing import Any

from dila.errors import DilaError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_ENTRY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST})

_UMASK = os.umask(0)
os.umask(_UMASK)
_MODE = 0o666 & ~_UMASK


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """A path beside, to write to: moved to where it belongs when all went well, removed when not.

    Args:
        path: the file; folders above it are made.
        shared: other processes may be writing the same file, so each has a name of its own. Otherwise the name is
            always the same, and what a kill leaves is written over.

    Raises:
        DilaError: as `writing`.
    """
    whose = f".{os.getpid()}" if shared else ""
    temporary = path.with_name(f".{path.name}{whose}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            readable(temporary)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def readable(path: Path) -> None:
    """Give a file the mode of any other new file: safetensors makes its own for their owner alone."""
    if path.is_file():
        path.chmod(_MODE)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around whatever writes a file or a folder: a failure of the disk becomes one sentence.

    Libraries that write for themselves (safetensors, torch) raise errors of their own, in whose text the system's
    number is all that is left; what does not speak of the disk goes on as it is.

    Raises:
        DilaError: no room, no permission, a read-only or a broken disk.
    """
    try:
        yield
    except Exception as error:
        number = _number(error)
        if isinstance(error, DilaError) or number is None:
            raise
        mend = "make room" if number in NO_ROOM else "make it writable, or choose another folder"
        raise DilaError(
            f"{path} cannot be written ({strerror(number)}); what was whole before still is: {mend}, and the same "
            "command goes on"
        ) from error


def _number(error: BaseException) -> int | None:
    """The system's number of a failure of the disk, wherever in the chain of errors it stands."""
    at: BaseException | None = error
    while at is not None:
        number = at.errno if isinstance(at, OSError) else _told(str(at))
        if number in NO_ROOM | NO_ENTRY:
            return number
        at = at.__cause__ or at.__context__
    return None


def _told(text: str) -> int | None:
    """The number in a text such as ``I/O error: No space left on device (os error 28)``."""
    known = (number for number in NO_ROOM | NO_ENTRY if f"os error {number})" in text or strerror(number) in text)
    return next(known, None)
