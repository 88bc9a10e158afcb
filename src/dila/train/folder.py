"""Find and read ``run.json`` of a run, given its folder or one of its checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dila.errors import DilaError
from dila.files import read_object

RUN = "run.json"
HELD_OUT = 0.1
"""Default share of held-out episodes."""


def find_run(model: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """Folder and ``run.json`` of the run in a folder, or of the run of a checkpoint; None if there is none.

    Raises:
        DilaError: as `read_run`.
    """
    for folder in (Path(model), Path(model).parent.parent):
        if (folder / RUN).is_file():
            return folder, read_run(folder / RUN)
    return None


def read_run(path: Path) -> dict[str, Any]:
    """Read a ``run.json``.

    Raises:
        DilaError: the file is damaged.
    """
    told = read_object(path, _MEND)
    if not isinstance(told.get("clips", {}), dict):
        raise DilaError(f"{path} does not describe a run; {_MEND}")
    return told


_MEND = "remove it; the command that trained the run writes it again"


def held_out_of(run: Mapping[str, Any]) -> float:
    """Share of the episodes that a run held out; the default if it held out none, because other data needs a split."""
    return run.get("clips", {}).get("held_out") or HELD_OUT
