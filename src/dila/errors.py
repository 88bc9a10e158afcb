"""The errors a user can mend."""

import errno
import sys
from collections.abc import Sequence

NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive")
"""Of what torch raises where there is none, as errors of no kind of their own; the last is oneDNN's."""

NO_FILE, NO_FILE_TEXT = frozenset({errno.EMFILE, errno.ENFILE}), "Too many open files"


class DilaError(Exception):
    """Bad input: one sentence that names the file, field or flag, and the mend.

    The command line prints the sentence alone and exits with 2.
    """


def at_least(least: int, **flags: int | None) -> None:
    """Refuse a flag below the least that makes sense; None is one left out.

    Raises:
        DilaError: naming it.
    """
    for name, value in flags.items():
        if value is not None and value < least:
            raise DilaError(f"--{name} {value} must be at least {least}")


def check_inside(where: str, frames: Sequence[int], count: int) -> list[int]:
    """The indices of frames as integers.

    Raises:
        DilaError: one lies outside 0 .. count - 1.
    """
    wanted = [int(f) for f in frames]
    if wanted and (min(wanted) < 0 or max(wanted) >= count):
        raise DilaError(f"{where} has frames 0 to {count - 1}, but {min(wanted)} to {max(wanted)} were asked for")
    return wanted


DARKEST, BRIGHTEST = -0.5, 1.5
"""A float picture with a value outside is taken for one in -1..1 or 0..255 (bicubic resizing overshoots by less)."""


def check_unit_range(what: str, low: float, high: float) -> None:
    """Refuse float pictures, of which these are the least and the greatest number, that are not in 0..1.

    Raises:
        DilaError: they are not, or one is NaN.
    """
    if not DARKEST <= low <= high <= BRIGHTEST:
        raise DilaError(
            f"{what} should be in 0..1 but go from {low:.3g} to {high:.3g}; bring them there (divide 0..255 by 255, "
            "add 1 to -1..1 and halve it) or give uint8"
        )


def first_line(error: BaseException) -> str:
    """Of what an error says, the part that fits into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def in_words(error: Exception) -> str:
    """What an error says to a user: all of it, where it was written for one."""
    return str(error) if isinstance(error, DilaError) else f"{type(error).__name__}: {error}"


class Shortage(Exception):
    """The machine is too small for it: one sentence that says of what it has too little, and the mend.

    No `DilaError`, as nothing is wrong with what was given: whoever goes on without a damaged file does not go on here.
    """


def refuse_shortage(error: BaseException) -> None:
    """Tell a machine that is too small from damage, where whatever a reader raises is taken for that.

    Raises:
        Shortage: no memory, or no file more that may be open.
    """
    if isinstance(error, Shortage):
        raise error
    if (sentence := _lacking(error)) is not None:
        raise Shortage(sentence) from error


def _lacking(error: BaseException | None) -> str | None:
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        text = str(error) if isinstance(error, OSError | RuntimeError) else ""  # of a worker's and of torch's, all
        if number in NO_FILE or NO_FILE_TEXT in text:
            return f"too many files are open ({first_line(error)}); raise the limit (ulimit -n), or lower --workers"
        if isinstance(error, MemoryError) or number == errno.ENOMEM or any(t in text for t in NO_MEMORY):
            told = first_line(error).rstrip(".") if str(error) else "Python could not have any"
            return (
                f"there is too little memory ({told}); close other programs, or give less at once (--batch, --workers)"
            )
        # Who made a sentence of a MemoryError knows its format, of which a damaged file may claim any size.
        error = error.__cause__ if isinstance(error, DilaError) and isinstance(error.__cause__, OSError) else None
    return None


class MissingExtra(DilaError):
    """A feature needs a package that the core install leaves out; `newest`: the last Python that has it."""

    def __init__(self, feature: str, package: str, extra: str, newest: tuple[int, int] = (4, 0)):
        late = sys.version_info[:2] > newest
        where = f" under Python {newest[0]}.{newest[1]}, as no newer has it" if late else ""
        super().__init__(
            f"{feature} needs the package {package!r}; install it{where} with: pip install 'dila-wm[{extra}]'"
        )
