"""The model included in the package: ``load_pretrained("box")``. Its clips are in `dila.data.examples`."""

from pathlib import Path

NAME = "box"
"""Name that `load_pretrained` and all commands accept instead of a path; an existing path takes precedence."""

FOLDER = Path(__file__).parents[1] / "box"
"""Folder as written by `dila.interop.pretrained.save_pretrained`, in half precision."""

BYTES = 16 * 2**20
"""Maximum total size of the model and its clips, which are part of every wheel."""
