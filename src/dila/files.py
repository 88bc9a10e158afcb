"""Files that are written whole or not at all, and what a user is told when the disk refuses."""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from os import strerror
from pathlib import Path
from stat import S_IMODE
from typing import Any
from uuid import uuid4

from dila.errors import DilaError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_ENTRY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
NO_PLACE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
REFUSED = NO_ROOM | NO_ENTRY | NO_PLACE


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
    temporary = private(path, "partial") if shared else path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            readable(temporary)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def private(path: Path, ending: str) -> Path:
    """A hidden name beside, which no other process has, on this machine or in a container: all first ones are 1."""
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:12]}.{ending}")


def readable(path: Path) -> None:
    """Give a file the mode of any other new file: safetensors makes its own for their owner alone."""
    if not path.is_file() or path.stat().st_mode & 0o077:
        return
    beside = path.with_name(f".{uuid4().hex[:12]}.mode")  # the umask is not told without setting it, for all threads
    try:
        beside.touch(exist_ok=False)
        path.chmod(S_IMODE(beside.stat().st_mode))
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replacing(path) as partial:
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
        parents = number == errno.ENOENT  # of the file itself that says nothing
        why, mend = _in_the_way([*path.parents] if parents else [*path.parents, path]) or why, "choose another folder"
    return f"{path} cannot be written ({why}); what was whole before still is: {mend}, and the same command goes on"


def _in_the_way(folders: Sequence[Path]) -> str | None:
    """What stands where one of these should be."""
    found = next((at for at in folders if os.path.lexists(at) and not os.path.isdir(at)), None)
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
