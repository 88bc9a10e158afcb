"""``dila pack``."""

from pathlib import Path
from typing import Any

from tyro.conf import Positional


def pack(
    model: Positional[str],
    out: Path,
    title: str | None = None,
    data: str | None = None,
    limits: str | None = None,
    licence: str | None = None,
    full: bool = False,
) -> None:
    """Write a trained model to a folder at half the size, with a model card that states its metrics.

    Args:
        model: folder of a trained model or of a run, a Hub id, or box.
        out: folder to write; an older model there is replaced.
        title: title of the card.
        data: training data, for the card.
        limits: limitations, for the card.
        licence: licence of the weights, as named on the Hub; default mit.
        full: keep float32 weights.
    """
    from dila.interop.pack import pack as write

    folder = write(model, out, about(title, data, limits, licence), half=not full)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"wrote {folder}, {size / 2**20:.1f} MB; its card is {folder / 'README.md'}")


def about(title: str | None, data: str | None, limits: str | None, licence: str | None) -> dict[str, Any]:
    """Collect the given texts of a model card."""
    told = {"title": title, "data": data, "limits": limits, "licence": licence}
    return {name: text for name, text in told.items() if text is not None}
