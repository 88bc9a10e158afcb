"""What each run of a comparison leaves behind: one JSON, where it lies, and what it must hold to be read."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dila.errors import DilaError
from dila.files import read_object

ONE = ("data", "contents", "size", "steps", "clips", "frames", "stride", "fps", "camera", "encoder", "probed")
"""What all runs of a comparison have in common; JSON of before a field was written goes without it."""

CONSTANT = 0.005
"""z whose numbers spread less over held-out clips says the same of every transition: 0 in most such runs, while the
narrowest z of a model of which all seeds live, one-hot codes, spreads by 0.02."""

_ALWAYS = {"name": str, "seed": int, "size": str, "steps": int, "clips": int, "device": str}
_FINISHED = {"parameters": int, "seconds_training": int | float}
_SCORES = ("rollout_error_vs_copy_last", "probe_r2", "rollout/pooled", "rollout/one_step", "probe/r2")


def slug(name: str, seed: int) -> str:
    """What a run's folder and JSON are called."""
    return f"{name.replace(':', '-')}-seed{seed}"


def place(out: Path, name: str, seed: int) -> Path:
    """Where a run's JSON lies."""
    return out / "results" / f"{slug(name, seed)}.json"


def read_result(path: Path) -> dict[str, Any]:
    """What a run scored, or why it failed.

    Raises:
        DilaError: it cannot be read, or is something else.
    """
    mend = "remove it and compare again"
    told = read_object(path, mend)
    if wrong := _wrong(told):
        raise DilaError(f"{path} is no result of dila compare, as {wrong}; {mend}")
    return told


def check_alike(told: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Refuse runs that are not of one comparison, or of different models under one name.

    Raises:
        DilaError: naming what differs.
    """
    for key in ONE:
        if len(kinds := {tuple(run[key]) if key == "probed" else run[key] for run in told if key in run}) > 1:
            raise DilaError(f"{folder} holds runs with {key} of {spelled(kinds)}; give one comparison a folder")
    for name in dict.fromkeys(run["name"] for run in told):
        if len(sizes := {run["parameters"] for run in told if run["name"] == name and "parameters" in run}) > 1:
            several = ", ".join(f"{size:,}" for size in sorted(sizes))
            raise DilaError(f"{folder} holds runs of {name} with {several} parameters; give each model its own name")


def at(told: Mapping[str, Any], path: str) -> Any:
    """What stands at ``key/key`` of a result; None where there is nothing."""
    value: Any = told
    for key in path.split("/"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def scales_of_z(told: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """How wide z of a model is over held-out clips, by seed (`dila.metrics.latent.scale`)."""
    return [scale for run in told if run["name"] == name and (scale := at(run, "held_out/scale_z")) is not None]


def untested(told: Iterable[Mapping[str, Any]], *names: str) -> str:
    """Why nothing is said of these models: z of one is constant in half of its seeds or more. Empty where none is."""
    for name in names:
        scales = scales_of_z(told, name)
        constant = sum(scale < CONSTANT for scale in scales)
        if constant and 2 * constant >= len(scales):
            return f"untested: z of {name} is constant in {constant} of {len(scales)} seeds"
    return ""


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Its lines."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(line)} |" for line in lines)]


def spelled(values: Iterable[Any]) -> str:
    """Values of one of the fields in `ONE`, in a sentence."""
    told = (" ".join(value) or "nothing" if isinstance(value, list | tuple) else str(value) for value in values)
    return ", ".join(sorted(told))


def table(results: Sequence[dict[str, Any]]) -> str:
    """Mean and spread over seeds of each name, as text."""
    lines = [f"{'name':<24}{'runs':>5}{'parameters':>12}{'rollout/copy':>18}{'probe R2':>18}{'train s':>9}"]
    for name in dict.fromkeys(result["name"] for result in results):
        its = [result for result in results if result["name"] == name and "failed" not in result]
        failed = sum(result["name"] == name for result in results) - len(its)
        size = f"{its[0]['parameters']:,}" if its else ""
        scores = [_spread([r.get(key) for r in its]) for key in ("rollout_error_vs_copy_last", "probe_r2")]
        seconds = f"{fmean(r['seconds_training'] for r in its):.0f}" if its else ""
        line = f"{name:<24}{len(its):>5}{size:>12}{scores[0]:>18}{scores[1]:>18}{seconds:>9}"
        lines.append(line + (f"  {failed} failed" if failed else ""))
    return "\n".join(lines)


def _wrong(told: Mapping[str, Any]) -> str | None:
    needed = _ALWAYS if "failed" in told else _ALWAYS | _FINISHED
    kinds = needed | {path: int | float for path in _SCORES if at(told, path) is not None}
    strange = [path for path, kind in kinds.items() if not isinstance(at(told, path), kind)]
    if not strange:
        return None
    value = at(told, strange[0])
    return f"it has no {strange[0]}" if value is None else f"its {strange[0]} is {value!r}"


def _spread(told: Sequence[float | None]) -> str:
    """Of those that are there; where one is not finite, neither is the mean."""
    values = [value for value in told if value is not None]
    if not values:
        return ""
    spread = f" +- {stdev(values):.3f}" if len(values) > 1 and all(map(math.isfinite, values)) else ""
    return f"{fmean(values):.3f}{spread}"
