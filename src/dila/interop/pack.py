"""Pack a trained model for distribution: half precision, with a model card that lists its metrics."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dila.errors import DilaError
from dila.files import at_home
from dila.interop.actions import Actions, known_actions
from dila.interop.card import GIVE, local_encoder, model_card, run_numbers
from dila.interop.find import locate
from dila.interop.pretrained import load_pretrained, read_notes, save_pretrained

_log = logging.getLogger(__name__)


def pack(path: str | Path, out: str | Path, about: Mapping[str, Any] | None = None, *, half: bool = True) -> Path:
    """Write a model like `save_pretrained`, with a model card and at half the size; real actions are included.

    Args:
        path: path of the model, as for `load_pretrained`. The metrics of a run go into the card.
        out: folder outside ``path``; an existing model is replaced.
        about: notes for the card, see `dila.interop.card.model_card`; they override the model's own notes.
        half: store weights as float16. Loading converts them back to float32; predictions agree to about 1e-3.

    Returns:
        ``out``.

    Raises:
        DilaError: ``out`` and ``path`` overlap; or as `load_pretrained` and `save_pretrained`.
    """
    _check_apart(path, out)
    pretrained, about = load_pretrained(path), dict(about or {})
    if folder := local_encoder(pretrained.encoder):
        _log.warning("the encoder's weights are in a local folder, %s, and are not packed; %s", folder, GIVE)
    noted, measured, actions = _left(path)
    scores = measured | noted.get("scores", {}) | about.pop("scores", {})
    notes = {**noted, **about, **({"scores": scores} if scores else {})}
    return save_pretrained(out, pretrained, notes, half=half, card=model_card(pretrained, notes), actions=actions)


def _check_apart(path: str | Path, out: str | Path) -> None:
    ours, wanted = at_home(path).resolve(), at_home(out).resolve()
    if ours.is_dir() and (ours == wanted or ours in wanted.parents or wanted in ours.parents):
        raise DilaError(f"{out} overlaps with {path}, which the model is read from; choose a separate folder")


def _left(path: str | Path) -> tuple[dict[str, Any], dict[str, Any], Actions | None]:
    """Return the model's notes, its run's metrics and its real actions; a released file has none."""
    if at_home(path).is_file():
        return {}, {}, None
    folder = locate(path)
    return read_notes(folder), run_numbers(folder), known_actions(folder)
