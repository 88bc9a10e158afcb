"""The errors a user can mend."""


class DilaError(Exception):
    """Bad input: one sentence that names the file, field or flag, and the mend.

    The command line prints the sentence alone and exits with 2.
    """


class MissingExtra(DilaError):
    """A feature needs a package that the core install leaves out."""

    def __init__(self, feature: str, package: str, extra: str):
        super().__init__(f"{feature} needs the package {package!r}; install it with: pip install 'dila-wm[{extra}]'")
