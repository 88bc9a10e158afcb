"""The model that comes with the package: ``load_pretrained("box")``. Its clips are those of `dila.data.examples`."""

from pathlib import Path

NAME = "box"
"""What `load_pretrained` and every verb take in the place of a folder; a path of that name goes before it."""

FOLDER = Path(__file__).parents[1] / "box"
"""As `dila.interop.pretrained.save_pretrained` writes it, in half precision."""

BYTES = 16 * 2**20
"""What model and clips together may weigh: they are in every wheel."""
