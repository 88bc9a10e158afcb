"""Model cards: architecture, training data, metrics and limitations of a trained model, from the records of its run."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dila.errors import DilaError

if TYPE_CHECKING:
    from dila.interop.pretrained import Pretrained
    from dila.vision import FrozenEncoder

CARD = "README.md"
"""File name of the card in a model's folder, as the Hub expects."""

_TASK, _TAGS = "image-to-video", ["world-model", "latent-action", "video", "dila"]
_HELD = "held-out episodes"
"""Name of the data in the card's ``model-index``, for scores that are not of a named data set."""
_SCORES = {
    "rollout_error_vs_copy_last": "8-step rollouts on held-out episodes, error relative to repeating the first frame",
    "rollout_ratio": "rollouts on held-out clips, error relative to repeating the first frame",
    "one_step_ratio": "one frame ahead, error relative to repeating the frame before",
    "probe_r2": "R² of a linear probe from z to true motion, on held-out episodes",
    "probe_r2_chance": "the same with shuffled labels",
    "probe_r2_feature_differences": "the same from raw feature differences",
    "rank_z": "effective rank of z",
}
_CODE = """```python
{imports}

world = dila.load("THIS_MODEL")  # a folder or a Hub id
z = world.infer("clip.mp4")
frames = world.draw(world.rollout("clip.mp4"))
```
"""
_PAPERS = {
    "DiLA": "2605.15725",
    "LAPA": "2410.11758",
    "Moto": "2412.04445",
    "AdaWorld": "2503.18938",
    "AdaWorldDiffusion": "2503.18938",
    "VillaX": "2507.23682",
}
"""arXiv id by model class."""
GIVE = "to load the model, set encoder.model in config.json to a folder or a Hub id, or give load(encoder=...)"
"""Instruction for a model whose encoder weights are a local folder."""
_UNSAID = "Not documented."


def run_numbers(path: str | Path) -> dict[str, Any]:
    """Return the metrics that a run recorded: its last evaluation, and the report of `dila quickstart` beside it.

    Args:
        path: a run or one of its checkpoints; any other path gives no metrics.
    """
    given = Path(path)
    run = next((folder for folder in (given, *given.parents[:2]) if (folder / "run.json").is_file()), None)
    if run is None:
        return {}
    return _known(_last_evaluation(run / "log.jsonl") | _json(run.parent / "report.json"))


def model_card(pretrained: "Pretrained", notes: Mapping[str, Any]) -> str:
    """Return the card as Markdown, with the front matter that the Hub reads.

    Args:
        pretrained: the model.
        notes: ``title``, ``data``, ``recipe``, ``limits`` and ``licence`` are text; ``scores`` maps names to numbers
            (those of `run_numbers` or others), at one or two levels (a table per dataset).

    Raises:
        DilaError: scores that are not numbers.
    """
    encoder, decoder = pretrained.encoder, pretrained.decoder
    count = sum(p.numel() for p in pretrained.model.parameters())
    rows = [
        ("kind", type(pretrained.model).__name__),
        ("parameters", f"{count / 1e6:.2f}M"),
        ("reads", f"{encoder.config()['name']}, {encoder.grid[0]} x {encoder.grid[1]} x {encoder.feature_dim}"),
        ("latent actions", f"{pretrained.model.config.action_dim} numbers"),
        ("clips", f"{pretrained.frames} frames, {pretrained.stride:g} s apart"),
        *([("needs", f"{Path(left).name}: {GIVE}")] if (left := local_encoder(encoder)) else []),
        ("draws with", decoder.config()["name"] if decoder is not None else "none"),
    ]
    title, numbers = notes.get("title", notes.get("run", "A DiLA model")), _scores(notes.get("scores", {}))
    parts = [
        _front(title, notes),
        f"# {title}\n",
        f"A latent action world model ({_named(pretrained)}): infers latent actions from video without labels, and "
        "predicts futures under any of them.\n",
        _CODE.format(imports=_imports(pretrained)),
        _table(("", ""), rows),
        f"## Data\n\n{notes.get('data', _UNSAID)}\n",
        f"## Recipe\n\n{notes.get('recipe', notes.get('run', _UNSAID))}{_steps(notes)}\n",
        f"## Numbers\n\n{numbers}",
        f"## Limits\n\n{notes.get('limits', _UNSAID)}\n",
    ]
    return "\n".join(parts)


def _front(title: str, notes: Mapping[str, Any]) -> str:
    """Return the YAML metadata, with the scores as the ``model-index`` that the Hub shows beside the card."""
    from huggingface_hub import EvalResult, ModelCardData

    scores: Mapping[str, Any] = notes.get("scores", {})
    plain = {name: value for name, value in scores.items() if not isinstance(value, Mapping)}
    tables = {_HELD: plain} | {name: value for name, value in scores.items() if name not in plain}
    results = [
        EvalResult(_TASK, data, data, name, value, metric_name=_SCORES.get(name, name))
        for data, table in tables.items()
        for name, value in table.items()
        if math.isfinite(value)
    ]
    index: dict[str, Any] = {"model_name": title, "eval_results": results} if results else {}
    licence = notes.get("licence", "mit")
    about = ModelCardData(library_name="dila", pipeline_tag=_TASK, license=licence, tags=_TAGS, **index)
    return f"---\n{about.to_yaml()}\n---\n"


def _named(pretrained: "Pretrained") -> str:
    """Return the model's class name and paper; for a user-defined model only the name."""
    kind = type(pretrained.model)
    told = [kind.__name__, *([f"arXiv {_PAPERS[kind.__name__]}"] if kind.__module__.startswith("dila.") else [])]
    return ", ".join(told)


def _imports(pretrained: "Pretrained") -> str:
    """Return the imports that loading needs; a user-defined model's package must be imported first."""
    package = type(pretrained.model).__module__.partition(".")[0]
    return "\n".join(["import dila", *([f"import {package}  # defines the model"] if package != "dila" else [])])


def local_encoder(encoder: "FrozenEncoder") -> str | None:
    """Return the local folder that the encoder's weights were read from, if any; models are saved without them."""
    model = encoder.config().get("model")
    return model if model and Path(model).is_dir() else None


def _steps(notes: Mapping[str, Any]) -> str:
    return f" ({notes['step']} steps)" if "step" in notes else ""


def _scores(scores: Mapping[str, Any]) -> str:
    if not scores:
        return "No metrics were recorded.\n"
    nested = {name: value for name, value in scores.items() if isinstance(value, Mapping)}
    plain = {name: value for name, value in scores.items() if name not in nested}
    rows = [(_SCORES.get(name, name), _number(name, x)) for name, x in plain.items()]
    parts = [f"### {name}\n\n{_scores(value)}" for name, value in nested.items()]
    return "\n".join([_table(("score", ""), rows), *parts] if rows else parts)


def _number(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DilaError(f"scores.{name} should be a number, not {value!r}")
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"| {left} | {right} |" for left, right in [head, ("---", "---"), *rows]) + "\n"


def _last_evaluation(log: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with suppress(OSError):
        for line in log.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                said = json.loads(line)
                found = said if said.get("kind") == "evaluation" else found
    return found


def _json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        read = json.loads(path.read_text(encoding="utf-8"))
        return read if isinstance(read, dict) else {}
    return {}


def _known(said: Mapping[str, Any]) -> dict[str, Any]:
    """Select the known metrics of a record; of two measures of rollouts, keep only the better one."""
    scores = {name: said[name] for name in _SCORES if isinstance(said.get(name), int | float)}
    if "rollout_error_vs_copy_last" in scores:
        scores.pop("rollout_ratio", None)
    return scores
