"""Atomic file writes, locks, and one-sentence errors for disk failures."""

import errno
import hashlib
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

from dila.errors import DilaError, first_line, refuse_shortage

if sys.platform != "win32":
    import fcntl

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_ENTRY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})
NO_PLACE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP})
REFUSED = NO_ROOM | NO_ENTRY | NO_PLACE

SAMPLE_BYTES = 65_536
HOST = re.sub(r"\W", "", platform.node())
"""Name of this machine or container."""
_HELD: set[Path] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_HELD.clear)


@contextmanager
def replacing(path: Path, shared: bool = False, lasting: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path`, on an error it is removed.

    Args:
        path: the file; parent folders are created.
        shared: other processes may write the same file, so the temporary name is unique. Otherwise the name is fixed,
            and a file left by a killed process is overwritten.
        lasting: fsync the file and its folder, so that the file survives a power failure.

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
    """Hidden name in the same folder, unique also among containers, where process ids repeat."""
    return path.with_name(f".{path.name}.{os.getpid()}-{HOST}-{uuid4().hex[:12]}.{ending}")


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[None]:
    """Lock a file or folder for this process; the lock ends with the block or with the process.

    The lock is on a hidden file in the same folder. It is reentrant within the process and not inherited by forks. If
    the system or the file system does not support locks, nothing is locked.

    Args:
        path: a file or folder, which need not exist.
        wait: wait for the other process instead of raising.

    Raises:
        DilaError: another process holds the lock.
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
            place.unlink()  # before unlocking, so that a waiting process can detect that its handle is stale
        os.close(handle)


def _locked(place: Path, path: Path, wait: bool) -> int | None:
    """Handle of the lock file; None if locks are not supported."""
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
    """Flush a file or folder to disk (fsync); without it, a power failure may leave an empty file."""
    if os.name != "posix" and path.is_dir():  # Windows cannot open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def readable(path: Path) -> None:
    """Give a file the default mode of new files; safetensors creates files that only their owner can read."""
    if not path.is_file() or path.stat().st_mode & 0o077:
        return
    beside = path.with_name(f".{uuid4().hex[:12]}.mode")  # reading the umask would set it, for all threads
    try:
        beside.touch(exist_ok=False)
        path.chmod(S_IMODE(beside.stat().st_mode))
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any, lasting: bool = False) -> None:
    """Write a JSON file atomically; `lasting` as in `replacing`."""
    write_text(path, json.dumps(value, indent=2) + "\n", lasting)


def write_text(path: Path, text: str, lasting: bool = False) -> None:
    """Write a text file in UTF-8 atomically; `lasting` as in `replacing`."""
    with replacing(path, lasting=lasting) as partial:
        partial.write_text(text, encoding="utf-8")


def read_object(path: Path, mend: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        mend: what to do if the file is damaged; ends the error message.

    Raises:
        DilaError: the file cannot be read, or does not contain an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DilaError(f"{path} cannot be read as JSON ({first_line(error)}); {mend}") from error
    if not isinstance(value, dict):
        raise DilaError(f"{path} does not contain a JSON object; {mend}")
    return value


def at_home(path: str | Path) -> Path:
    """Expand ``~`` in a path."""
    return Path(os.path.expanduser(path))


def check_there(path: Path) -> None:
    """Check that a path exists.

    Raises:
        DilaError: it does not exist or is not accessible.
    """
    try:
        path.stat()
    except FileNotFoundError as error:
        raise DilaError(f"{path} does not exist") from error
    except OSError as error:
        raise DilaError(f"{path} cannot be read ({error.strerror}); give another path") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert disk failures inside the block, which writes `path`, to a `DilaError`.

    Libraries with writers of their own (safetensors, torch) raise errors that mention the errno only in their text.
    Errors that do not concern the disk pass unchanged.

    Raises:
        DilaError: disk full, no permission, read-only or failing disk, invalid name.
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
        mend = "free some space"
    elif number == errno.ENAMETOOLONG:
        mend = "choose a shorter name"
    elif number not in NO_ENTRY:
        parents = number == errno.ENOENT  # ENOENT does not concern the file itself
        why, mend = _in_the_way([*path.parents] if parents else [*path.parents, path]) or why, "choose another folder"
    return f"{path} cannot be written ({why}); existing files are intact: {mend}, then run the same command again"


def _in_the_way(folders: Sequence[Path]) -> str | None:
    """Description of a file or broken link at the path of one of these folders; None if there is none."""
    found = next((at for at in folders if os.path.lexists(at) and not os.path.isdir(at)), None)
    if found is None:
        return None
    return f"{found} is a {'broken link' if found.is_symlink() else 'file'}, not a folder"


def _number(error: BaseException, path: Path) -> int | None:
    """Errno of a disk failure, searched in the whole chain of exceptions; None if there is none."""
    at: BaseException | None = error
    while at is not None:
        number = at.errno if isinstance(at, OSError) else _told(str(at))
        if number in REFUSED or (number == errno.ENOENT and _is_target(path, str(at))):
            return number
        at = at.__cause__ or at.__context__
    return None


def _is_target(path: Path, told: str) -> bool:
    """Whether the missing file is the one to be written, and not an input."""
    return f".{path.name}" in told or not os.path.isdir(path.parent)


def _told(text: str) -> int | None:
    """Errno named by a message such as ``I/O error: No space left on device (os error 28)``."""
    known = (n for n in REFUSED | {errno.ENOENT} if f"os error {n})" in text or strerror(n) in text)
    return next(known, None)


def hash_file(path: Path) -> str:
    """Return a short hash of the size of a file and three samples of 64 KiB.

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
        raise DilaError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()
