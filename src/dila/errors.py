"""The errors a user can mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import strerror
from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_ENTRY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO})


class DilaError(Exception):
    """Bad input: one sentence that names the file, field or flag, and the mend.

    The command line prints the sentence alone and exits with 2.
    """


class MissingExtra(DilaError):
    """A feature needs a package that the core install leaves out."""

    def __init__(self, feature: str, package: str, extra: str):
        super().__init__(f"{feature} needs the package {package!r}; install it with: pip install 'dila-wm[{extra}]'")


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
