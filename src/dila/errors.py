"""The errors a user can mend."""

import sys


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


def first_line(error: BaseException) -> str:
    """Of what an error says, the part that fits into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class MissingExtra(DilaError):
    """A feature needs a package that the core install leaves out; `newest`: the last Python that has it."""

    def __init__(self, feature: str, package: str, extra: str, newest: tuple[int, int] = (4, 0)):
        late = sys.version_info[:2] > newest
        where = f" under Python {newest[0]}.{newest[1]}, as no newer has it" if late else ""
        super().__init__(
            f"{feature} needs the package {package!r}; install it{where} with: pip install 'dila-wm[{extra}]'"
        )
