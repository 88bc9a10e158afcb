"""``dila data record``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dila.cli.arguments import read


def record(
    source: Positional[Literal["pusht", "primitives"]],
    out: Positional[Path],
    episodes: int = 100,
    frames: int = 60,
    size: int = 128,
    seed: int = 0,
    workers: int = 1,
    policy: Literal["random", "push", "mixed"] = "mixed",
    kind: str = "mixed",
    moving_background: bool = False,
) -> None:
    """Record a simulator or generator as mp4 files, with the true actions in a table beside them.

    Interrupted, the same command goes on where it stopped.

    Args:
        source: pusht, the real simulator (extra `sim`); primitives, textured objects under known transforms.
        out: folder to record into.
        episodes: how many there are in the end.
        frames: frames of each, 10 a second.
        size: pixels a side.
        seed: the same seed gives the same data.
        workers: processes.
        policy: of pusht.
        kind: of primitives: one transform, a composition, or mixed.
        moving_background: of primitives: the background moves independently of the action.
    """
    if source == "pusht":
        from dila.data.pusht import record_pusht

        record_pusht(out, episodes, frames, size, seed, policy, workers)
    else:
        from dila.data.primitives import render_primitives

        render_primitives(out, episodes, frames, size, seed, kind, moving_background, workers=workers)
    print(f"recorded {episodes} episodes in {out}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(record, "data record", arguments)
