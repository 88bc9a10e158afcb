"""What the folder of a run tells of it: ``run.json``, found from a model of the run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dila.errors import DilaError
from dila.files import read_object

RUN = "run.json"
HELD_OUT = 0.1
"""Share of the episodes held out where no run says another."""


def find_run(model: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """Folder and ``run.json`` of the run in a folder, or of the one whose checkpoint this is.

    Raises:
        DilaError: as `read_run`.
    """
    for folder in (Path(model), Path(model).parent.parent):
        if (folder / RUN).is_file():
            return folder, read_run(folder / RUN)
    return None


def read_run(path: Path) -> dict[str, Any]:
    """A ``run.json``.

    Raises:
        DilaError: it is damaged.
    """
    told = read_object(path, _MEND)
    if not isinstance(told.get("clips", {}), dict):
        raise DilaError(f"{path} does not describe a run; {_MEND}")
    return told


_MEND = "remove it, and the command that trained the run writes it anew"


def held_out_of(run: Mapping[str, Any]) -> float:
    """Share of the episodes that a run held out; the usual one where it held out none, as other data need it."""
    return run.get("clips", {}).get("held_out") or HELD_OUT
