"""A trained model made small and ready to give away: half precision, and a card with its numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dila.interop import box
from dila.interop.card import model_card, run_numbers
from dila.interop.pretrained import find_pretrained, load_pretrained, read_notes, save_pretrained


def pack(path: str | Path, out: str | Path, about: Mapping[str, Any] | None = None, *, half: bool = True) -> Path:
    """Write a model as `save_pretrained` does, with a card, and at half the size.

    Args:
        path: of the model, as `load_pretrained` takes it. The numbers of a run go into the card.
        out: folder; one that holds a model already is replaced.
        about: for the card, see `dila.interop.card.model_card`; goes before what the model's own notes say.
        half: keep weights as float16. They are float32 again when loaded; predictions agree to about 1e-3.

    Returns:
        ``out``.

    Raises:
        DilaError: as `load_pretrained` and `save_pretrained`.
    """
    pretrained, about = load_pretrained(path), dict(about or {})
    folder = _folder(path)
    notes = read_notes(folder) if folder is not None else {}
    scores = (run_numbers(folder) if folder is not None else {}) | notes.get("scores", {}) | about.pop("scores", {})
    notes = {**notes, **about, **({"scores": scores} if scores else {})}
    return save_pretrained(out, pretrained, notes, half=half, card=model_card(pretrained, notes))


def _folder(path: str | Path) -> Path | None:
    """Where the model lies; None for a released file and for one of the Hub, which keep no notes here."""
    if str(path) == box.NAME and not Path(path).exists():
        return box.FOLDER
    return find_pretrained(path) if Path(path).expanduser().is_dir() else None
