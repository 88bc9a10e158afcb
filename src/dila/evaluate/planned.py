"""Scores of planned episodes: success and progress of each arm, and the share of the gap between the bounds closed."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import torch

from dila.analysis.intervals import Interval, mean_interval, ratio_interval, wilson
from dila.planning.environment import SUCCESS

Told = Mapping[str, Any]
"""Contents of an episode's JSON file."""


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


def listed(interval: Interval | None) -> list[float] | None:
    """Return an interval for JSON."""
    return None if interval is None else list(interval)


def mean_by_step(values: Sequence[Sequence[int | float]]) -> list[float]:
    """Return the mean over episodes of each step's value; an episode that ended early keeps its last one."""
    longest = max(map(len, values), default=0)
    return [fmean(each[min(step, len(each) - 1)] for each in values) for step in range(longest)]
