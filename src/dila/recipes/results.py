"""Result files of a comparison, one JSON per run: their paths, required fields and tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from dila.errors import DilaError
from dila.files import read_object

ONE = ("data", "contents", "size", "steps", "clips", "frames", "stride", "fps", "camera", "encoder", "probed")
"""Fields that must agree between all runs of a comparison; older files may lack some."""

CONSTANT = 0.005
"""Scale of z over held-out clips below which z counts as constant. Collapsed runs mostly have 0; the smallest scale of
a model of which no seed collapses, with one-hot codes, is 0.02."""

_ALWAYS = {"name": str, "seed": int, "size": str, "steps": int, "clips": int, "device": str}
_FINISHED = {"parameters": int, "seconds_training": int | float}
_SCORES = ("rollout_error_vs_copy_last", "probe_r2", "rollout/pooled", "rollout/one_step", "probe/r2")


def slug(name: str, seed: int) -> str:
    """Name of a run's folder and JSON."""
    return f"{name.replace(':', '-')}-seed{seed}"


def place(out: Path, name: str, seed: int) -> Path:
    """Path of a run's JSON."""
    return out / "results" / f"{slug(name, seed)}.json"


def read_result(path: Path) -> dict[str, Any]:
    """Read the result of a run, which may be a failure.

    Raises:
        DilaError: the file cannot be read, or is not a result of a comparison.
    """
    mend = "remove it and run dila compare again"
    told = read_object(path, mend)
    if wrong := _wrong(told):
        raise DilaError(f"{path} is not a result of dila compare, as {wrong}; {mend}")
    return told


def check_alike(told: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Check that runs belong to one comparison, and that each name stands for one model.

    Raises:
        DilaError: they do not; the difference is named.
    """
    for key in ONE:
        if len(kinds := {tuple(run[key]) if key == "probed" else run[key] for run in told if key in run}) > 1:
            raise DilaError(f"{folder} has runs with {key} of {spelled(kinds)}; use one folder for each comparison")
    for name in dict.fromkeys(run["name"] for run in told):
        if len(sizes := {run["parameters"] for run in told if run["name"] == name and "parameters" in run}) > 1:
            several = ", ".join(f"{size:,}" for size in sorted(sizes))
            raise DilaError(f"{folder} has runs of {name} with {several} parameters; give each model its own name")


def at(told: Mapping[str, Any], path: str) -> Any:
    """Return the value at ``key/key`` of a result; None if it is missing."""
    value: Any = told
    for key in path.split("/"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def scales_of_z(told: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """Scale of z over held-out clips (`dila.metrics.latent.scale`) for each seed of a model."""
    return [scale for run in told if run["name"] == name and (scale := at(run, "held_out/scale_z")) is not None]


def untested(told: Iterable[Mapping[str, Any]], *names: str) -> str:
    """Reason not to test these models: z of one is constant in at least half of its seeds; empty if there is none."""
    for name in names:
        scales = scales_of_z(told, name)
        constant = sum(scale < CONSTANT for scale in scales)
        if constant and 2 * constant >= len(scales):
            return f"untested: z of {name} is constant in {constant} of {len(scales)} seeds"
    return ""


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(line)} |" for line in lines)]


def spelled(values: Iterable[Any]) -> str:
    """Format the values of a field in `ONE` for a message."""
    told = (" ".join(value) or "nothing" if isinstance(value, list | tuple) else str(value) for value in values)
    return ", ".join(sorted(told))


def table(results: Sequence[dict[str, Any]]) -> str:
    """Format mean and standard deviation over seeds of each model as a text table."""
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
    """Describe the first field that is missing or of the wrong type; None if all are valid."""
    needed = _ALWAYS if "failed" in told else _ALWAYS | _FINISHED
    kinds = needed | {path: int | float for path in _SCORES if at(told, path) is not None}
    strange = [path for path, kind in kinds.items() if not isinstance(at(told, path), kind)]
    if not strange:
        return None
    value = at(told, strange[0])
    return f"it has no {strange[0]}" if value is None else f"its {strange[0]} is {value!r}"


def _spread(told: Sequence[float | None]) -> str:
    """Format mean and standard deviation of the values that exist; a non-finite value makes the mean non-finite."""
    values = [value for value in told if value is not None]
    if not values:
        return ""
    spread = f" +- {stdev(values):.3f}" if len(values) > 1 and all(map(math.isfinite, values)) else ""
    return f"{fmean(values):.3f}{spread}"
