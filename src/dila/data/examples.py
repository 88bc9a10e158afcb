"""Short videos that come with the package: ``box`` is their folder, ``box/NAME`` one of them."""

import os
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"
NAME = "box"


def example_clips() -> list[Path]:
    """Return the paths of all of them, sorted by name."""
    return sorted(FOLDER.glob("*.mp4"))


def example(path: str | Path) -> Path | None:
    """Return the path of ``box`` or ``box/NAME``; None for any other path, and if a file or folder has that path."""
    parts = Path(path).parts
    if not parts or parts[0] != NAME or len(parts) > 2 or os.path.exists(path):
        return None
    found = FOLDER.joinpath(*parts[1:])
    found = found.with_suffix(".mp4") if len(parts) == 2 else found
    return found if os.path.exists(found) else None
