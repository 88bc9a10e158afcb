"""Errors that the user can fix."""

import errno
import sys
from collections.abc import Sequence

NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")
"""Fragments of the out-of-memory messages of torch, which are plain RuntimeErrors; the last is oneDNN's."""

NO_FILE, NO_FILE_TEXT = frozenset({errno.EMFILE, errno.ENFILE}), "Too many open files"


class DilaError(Exception):
    """Invalid input: one sentence that names the file, field or flag, and says how to fix it.

    The command line prints only this sentence and exits with code 2.
    """


def at_least(least: int, **flags: int | None) -> None:
    """Check that flags are at least `least`; None is a flag that was not given.

    Raises:
        DilaError: a flag is smaller; it is named.
    """
    for name, value in flags.items():
        if value is not None and value < least:
            raise DilaError(f"--{name} {value} must be at least {least}")


def check_inside(where: str, frames: Sequence[int], count: int) -> list[int]:
    """Return frame indices as integers, after checking them.

    Raises:
        DilaError: an index is outside 0 .. count - 1.
    """
    wanted = [int(f) for f in frames]
    if wanted and (min(wanted) < 0 or max(wanted) >= count):
        raise DilaError(f"{where} has frames 0 to {count - 1}, but {min(wanted)} to {max(wanted)} were requested")
    return wanted


DARKEST, BRIGHTEST = -0.5, 1.5
"""Float images with values outside these bounds are assumed to be in -1..1 or 0..255; bicubic overshoot is smaller."""


def check_unit_range(what: str, low: float, high: float) -> None:
    """Check that float images with this minimum and maximum are in 0..1.

    Raises:
        DilaError: they are not, or a bound is NaN.
    """
    if not DARKEST <= low <= high <= BRIGHTEST:
        raise DilaError(
            f"{what} should be in 0..1 but go from {low:.3g} to {high:.3g}; rescale them (0..255: divide by 255, "
            "-1..1: add 1 and halve) or pass uint8"
        )


def first_line(error: BaseException) -> str:
    """First line of an error message, cut to 200 characters; the name of its class if it is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def in_words(error: Exception) -> str:
    """Message of an error for the user; errors other than `DilaError` are prefixed with the name of their class."""
    return str(error) if isinstance(error, DilaError) else f"{type(error).__name__}: {error}"


class Shortage(Exception):
    """The machine lacks a resource: one sentence that says which one, and what to do.

    Not a `DilaError`, because the input is valid: code that skips damaged files must not skip on this.
    """


def refuse_shortage(error: BaseException) -> None:
    """Raise `Shortage` if a reader failed for lack of resources, and not because the file is damaged.

    Raises:
        Shortage: out of memory, or too many open files.
    """
    if isinstance(error, Shortage):
        raise error
    if (sentence := _lacking(error)) is not None:
        raise Shortage(sentence) from error


def _lacking(error: BaseException | None) -> str | None:
    """Sentence for `Shortage`; None if the error has another reason."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        text = str(error) if isinstance(error, OSError | RuntimeError) else ""  # torch and its workers keep no errno
        if number in NO_FILE or NO_FILE_TEXT in text:
            return f"too many files are open ({first_line(error)}); raise the limit (ulimit -n), or lower --workers"
        if isinstance(error, MemoryError) or number == errno.ENOMEM or any(t in text for t in NO_MEMORY):
            told = first_line(error).rstrip(".") if str(error) else "allocation failed"
            return f"there is too little memory ({told}); close other programs, or lower --batch or --workers"
        # A DilaError made from a MemoryError means damage: a corrupt file may claim any size.
        error = error.__cause__ if isinstance(error, DilaError) and isinstance(error.__cause__, OSError) else None
    return None


class MissingExtra(DilaError):
    """A feature needs a package of an optional extra; `newest` is the last Python version that the package supports."""

    def __init__(self, feature: str, package: str, extra: str, newest: tuple[int, int] = (4, 0)):
        late = sys.version_info[:2] > newest
        where = f" under Python {newest[0]}.{newest[1]}, the newest version that it supports," if late else ""
        super().__init__(
            f"{feature} needs the package {package!r}; install it{where} with: pip install 'dila-wm[{extra}]'"
        )
