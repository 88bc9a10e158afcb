"""Scores of planned episodes: success and progress of each arm, and the share of the gap between the bounds closed.

They are summarised for ``report.json``, and put into a `Result`, so that `dila report` compares and tests models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import Any

import torch

from dila.analysis.intervals import Interval, mean_interval, ratio_interval, wilson
from dila.evaluate.result import Result, Score, Subject, edges
from dila.planning.environment import SUCCESS
from dila.version import version

Told = Mapping[str, Any]
"""Contents of an episode's JSON file."""
_FREE = frozenset({"environment", "episodes", "arms", "together", "seed"})
"""Settings of `Planning` that a result names elsewhere, or on which no episode depends."""


def success(episode: Told) -> float:
    """Return 1 if the best score is below `SUCCESS`, else 0, as in VP2."""
    return float(min(episode["scores"]) < SUCCESS)


def progress(episode: Told) -> int | float | None:
    """Return the relative reduction from the first to the best score; None if the first is 0, at the goal."""
    first = episode["scores"][0]
    return 1 - min(episode["scores"]) / first if first > 0 else None


MEASURES: dict[str, Callable[[Told], int | float | None]] = {"success": success, "progress": progress}


def summarise_arm(episodes: Sequence[Told]) -> dict[str, Any]:
    """Summarise the episodes of an arm; progress is the mean over the episodes that have one."""
    best = [min(each["scores"]) for each in episodes]
    reached = sum(map(success, episodes))
    known = [share for share in map(progress, episodes) if share is not None]
    return {
        "episodes": len(best),
        "success": reached / len(best),
        "success_interval": list(wilson(int(reached), len(best))),
        "progress": fmean(known) if known else None,
        "progress_interval": listed(progress_interval(known)),
        "best_score": fmean(best),
        "final_score": fmean(each["scores"][-1] for each in episodes),
        "seconds": fmean(each["seconds"] for each in episodes),
        "plan_seconds": median(seconds for each in episodes for seconds in each["plan_seconds"]),
        "scores": mean_by_step([each["scores"] for each in episodes]),
        "costs": mean_by_step([costs for each in episodes if (costs := each.get("costs"))]),
    }


def progress_interval(known: Sequence[int | float]) -> Interval | None:
    """Return Student's interval of the mean progress over episodes, within 0 and 1; None for fewer than two."""
    told = mean_interval(torch.tensor(known, dtype=torch.float64), torch.arange(len(known)))
    return told and Interval(*(min(max(edge, 0.0), 1.0) for edge in told))


def gap_closed(
    measure: str, random: Sequence[Told], model: Sequence[Told], simulator: Sequence[Told]
) -> tuple[float | None, Interval | None]:
    """Return the share of the gap between random actions (0) and the simulator (1) that the model closes.

    It is a ratio of sums over the episodes, with Student's interval by the jackknife (`dila.analysis.intervals`). The
    share is None without a gap, the interval also if the gap is due to one episode.

    Args:
        measure: one of `MEASURES`.
        random: episodes with random actions.
        model: the same episodes, planned with the model.
        simulator: the same episodes, planned in the true simulator.
    """
    each = zip(*(map(MEASURES[measure], episodes) for episodes in (random, model, simulator)), strict=True)
    known = torch.tensor([values for values in each if None not in values], dtype=torch.float64).reshape(-1, 3)
    low, reached, high = known.T
    top, bottom = reached - low, high - low
    if not bottom.sum() > 0:
        return None, None
    lasting = bool((bottom.sum() - bottom > 0).all())
    told = ratio_interval(top, bottom, torch.arange(len(top))) if lasting else None
    return float(top.sum() / bottom.sum()), told


def to_result(
    report: Mapping[str, Any],
    episodes: Mapping[Any, Sequence[Told]],
    subject: Subject,
    stride: int | float,
    pictures: Mapping[str, str],
) -> Result:
    """Return the contents of ``report.json`` as a result with one row per episode, which `dila report` compares.

    Models are tested against each other if environment, episodes and all settings are the same.

    Args:
        report: contents of ``report.json``.
        episodes: episodes of each arm.
        subject: the model.
        stride: seconds per action.
        pictures: captions by file name.
    """
    settings = {name: value for name, value in report["settings"].items() if name not in _FREE} | {"stride": stride}
    seeds = [each["seed"] for each in next(iter(episodes.values()))]
    scores = [score for arm, each in episodes.items() for score in _arm_scores(arm, each, report["arms"][arm])]
    for measure, share in report["normalised"].items():
        scores.append(Score(f"gap_closed/{measure}", share, *edges(report["normalised_interval"][measure])))
    longest = max(len(row["scores"]) for row in report["arms"].values())
    idle = sum(progress(each) is None for each in next(iter(episodes.values())))
    return Result(
        "planning",
        subject if settings["cost"] == "pixels" else replace(subject, decoder=""),
        report["settings"]["environment"],
        f"seeds {seeds[0]} to {seeds[-1]}",
        settings,
        tuple(scores),
        tuple(f"seed {seed}" for seed in seeds),
        tuple(range(longest)),
        notes=(f"{idle} of {len(seeds)} episodes start at their goal and have no progress",) if idle else (),
        pictures=dict(pictures),
        seconds=sum(each["seconds"] for arm in episodes.values() for each in arm),
        dila_version=version(),
    )


def _arm_scores(arm: str, episodes: Sequence[Told], row: Mapping[str, Any]) -> list[Score]:
    scores = []
    for measure, of in MEASURES.items():
        values = [value for each in episodes if (value := of(each)) is not None]
        its = tuple(values) if len(values) == len(episodes) else ()
        scores.append(Score(f"{measure}/{arm}", row[measure], *edges(row[f"{measure}_interval"]), values=its))
    best = torch.tensor([min(each["scores"]) for each in episodes], dtype=torch.float64)
    ends = edges(mean_interval(best, torch.arange(len(best))))
    distance = Score(f"distance/{arm}", row["best_score"], *ends, "lower", tuple(best.tolist()), tuple(row["scores"]))
    return [*scores, distance]


def listed(interval: Interval | None) -> list[float] | None:
    """Return an interval for JSON."""
    return None if interval is None else list(interval)


def mean_by_step(values: Sequence[Sequence[int | float]]) -> list[float]:
    """Return the mean over episodes of each step's value; an episode that ended early keeps its last one."""
    longest = max(map(len, values), default=0)
    return [fmean(each[min(step, len(each) - 1)] for each in values) for step in range(longest)]
