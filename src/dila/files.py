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
NO_ENTRY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
NO_PLACE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
REFUSED = NO_ROOM | NO_ENTRY | NO_PLACE

_UMASK = os.umask(0)
os.umask(_UMASK)
_MODE = 0o666 & ~_UMASK


@contextmanager
def replacing(path: Path, shared: bool = False, lasting: bool = False) -> Iterator[Path]:
    """A path beside, to write to: moved to where it belongs when all went well, removed when not.

    Args:
        path: the file; folders above it are made.
        shared: other processes may be writing the same file, so each has a name of its own. Otherwise the name is
            always the same, and what a kill leaves is written over.
        lasting: force it to the disk, so that it outlives a power cut.

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
            if lasting:
                to_disk(temporary)
            os.replace(temporary, path)
            if lasting:
                to_disk(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def to_disk(path: Path) -> None:
    """Force a file or a folder to the disk: without it, a power cut may leave a name and no contents."""
    if os.name != "posix" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def readable(path: Path) -> None:
    """Give a file the mode of any other new file: safetensors makes its own for their owner alone."""
    if path.is_file():
        path.chmod(_MODE)


def write_json(path: Path, value: Any, lasting: bool = False) -> None:
    """Write a JSON file, whole or not at all; `lasting` as in `replacing`."""
    write_text(path, json.dumps(value, indent=2) + "\n", lasting)


def write_text(path: Path, text: str, lasting: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; `lasting` as in `replacing`."""
    with replacing(path, lasting=lasting) as partial:
        partial.write_text(text, encoding="utf-8")


def check_there(path: Path) -> None:
    """Refuse a path that leads nowhere, before anything is read.

    Raises:
        DilaError: nothing is there, or it may not be looked at.
    """
    try:
        path.stat()
    except FileNotFoundError as error:
        raise DilaError(f"{path} does not exist") from error
    except OSError as error:
        raise DilaError(f"{path} cannot be read ({error.strerror}); give another path") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around whatever writes a file or a folder: a failure of the disk becomes one sentence.

    Libraries that write for themselves (safetensors, torch) raise errors of their own, in whose text the system's
    number is all that is left; what does not speak of the disk goes on as it is.

    Raises:
        DilaError: no room, no permission, a read-only or a broken disk, a name that cannot be.
    """
    try:
        yield
    except Exception as error:
        number = _number(error, path)
        if isinstance(error, DilaError) or number is None:
            raise
        raise DilaError(_refusal(path, number)) from error


def _refusal(path: Path, number: int) -> str:
    why, mend = strerror(number), "make it writable, or choose another folder"
    if number in NO_ROOM:
        mend = "make room"
    elif number == errno.ENAMETOOLONG:
        mend = "choose a shorter name"
    elif number not in NO_ENTRY:
        why, mend = _in_the_way(path) or why, "choose another folder"
    return f"{path} cannot be written ({why}); what was whole before still is: {mend}, and the same command goes on"


def _in_the_way(path: Path) -> str | None:
    """What stands where a folder should be."""
    found = next((at for at in (*path.parents, path) if os.path.lexists(at) and not os.path.isdir(at)), None)
    if found is None:
        return None
    return f"{found} is a {'link that leads nowhere' if found.is_symlink() else 'file'}, and no folder"


def _number(error: BaseException, path: Path) -> int | None:
    """The system's number of a failure of the disk, wherever in the chain of errors it stands."""
    at: BaseException | None = error
    while at is not None:
        number = at.errno if isinstance(at, OSError) else _told(str(at))
        if number in REFUSED or (number == errno.ENOENT and _is_target(path, str(at))):
            return number
        at = at.__cause__ or at.__context__
    return None


def _is_target(path: Path, told: str) -> bool:
    """Whether what is not there is the file to be written, and not one that was to be read for it."""
    return f".{path.name}" in told or not os.path.isdir(path.parent)


def _told(text: str) -> int | None:
    """The number in a text such as ``I/O error: No space left on device (os error 28)``."""
    known = (n for n in REFUSED | {errno.ENOENT} if f"os error {n})" in text or strerror(n) in text)
    return next(known, None)
