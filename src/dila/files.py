"""Files that are written whole or not at all, and what a user is told when the disk refuses."""

import errno
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from os import strerror
from pathlib import Path
from stat import S_IMODE
from typing import Any
from uuid import uuid4

from dila.errors import DilaError, first_line

if sys.platform != "win32":
    import fcntl

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_ENTRY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
NO_PLACE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
REFUSED = NO_ROOM | NO_ENTRY | NO_PLACE

HOST = re.sub(r"\W", "", platform.node())
"""This machine, or the container that looks like one."""
_HELD: set[Path] = set()


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
    temporary = private(path, "partial") if shared else path.with_name(f".{path.name}.partial")
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


def private(path: Path, ending: str) -> Path:
    """A hidden name beside, which no other process has, here or in a container, whose first is 1 as well."""
    return path.with_name(f".{path.name}.{os.getpid()}-{HOST}-{uuid4().hex[:12]}.{ending}")


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold what only one process at a time may write, until this is left or the process is gone, however it went.

    The lock lies on a hidden file beside, and is the process's own: what it forks does not hold it, and what it holds
    already it may ask for again. Where the system or the disk has no locks, nothing is held.

    Args:
        path: a file or folder, which need not be there.
        wait: for the other process, instead of refusing.

    Raises:
        DilaError: another process holds it.
    """
    real = Path(os.path.realpath(path))
    place = real.with_name(f".{real.name}.lock") if real.name else real
    handle = None if place in _HELD else _locked(place, path, wait)
    if handle is None:
        yield
        return
    _HELD.add(place)
    try:
        yield
    finally:
        _HELD.discard(place)
        with suppress(OSError):
            place.unlink()  # still locked, so that whoever has opened it meanwhile sees that it is another's no more
        os.close(handle)


def _locked(place: Path, path: Path, wait: bool) -> int | None:
    """The locked file; None where there are no locks."""
    if sys.platform == "win32":
        return None
    while True:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return None
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(place)):
                    return handle
        except BaseException as error:
            os.close(handle)
            if not isinstance(error, OSError):
                raise
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                return None
            raise DilaError(f"another process works on {path}; wait for it, or choose another folder") from error
        os.close(handle)


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
    if not path.is_file() or path.stat().st_mode & 0o077:
        return
    beside = path.with_name(f".{uuid4().hex[:12]}.mode")  # the umask is not told without setting it, for all threads
    try:
        beside.touch(exist_ok=False)
        path.chmod(S_IMODE(beside.stat().st_mode))
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any, lasting: bool = False) -> None:
    """Write a JSON file, whole or not at all; `lasting` as in `replacing`."""
    write_text(path, json.dumps(value, indent=2) + "\n", lasting)


def write_text(path: Path, text: str, lasting: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; `lasting` as in `replacing`."""
    with replacing(path, lasting=lasting) as partial:
        partial.write_text(text, encoding="utf-8")


def read_object(path: Path, mend: str) -> dict[str, Any]:
    """What a JSON file holds, by name.

    Args:
        path: the file.
        mend: what to do about a damaged one, to end the sentence with.

    Raises:
        DilaError: it cannot be read, or holds no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DilaError(f"{path} cannot be read as JSON ({first_line(error)}); {mend}") from error
    if not isinstance(value, dict):
        raise DilaError(f"{path} holds no object of JSON; {mend}")
    return value


def at_home(path: str | Path) -> Path:
    """A path with ``~`` spelt out, as shells do."""
    return Path(os.path.expanduser(path))


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
