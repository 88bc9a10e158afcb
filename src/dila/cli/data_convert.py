"""``dila data convert``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Data

SHOWN = 20


def convert(
    path: Positional[Data],
    out: Positional[Path],
    fps: float | None = None,
    camera: str | None = None,
    size: int | None = None,
    task: str | None = None,
    workers: int = 1,
    moving: bool = False,
    labels: Path | None = None,
) -> None:
    """Write any corpus that dila reads as a LeRobot data set, version 3.0.

    All cameras that saw a recording become one episode, with its tasks and splits. Interrupted, the same command goes
    on where it stopped.

    Args:
        path: a video, a folder of frames, or a folder with any number of them at any depth.
        out: folder of the data set.
        fps: frames a second that are declared, instead of what the files say: nothing is resampled, so another rate
            than theirs plays them too fast or slow; without it, episodes of the most common rate are taken.
        camera: of recordings that several cameras saw, this one alone, such as observation.images.front.
        size: pixels a side (even) to resize to, without keeping the ratio; without it, episodes of the first one's size
            are taken.
        task: what is done in the videos, in words, in all of them; without it, what the data says of each.
        workers: processes.
        moving: leave out what stands still or is moved by its camera, by the limits in docs/data.md.
        labels: of these videos, as dila label wrote them; they become a column latent_action.
    """
    from dila.data.convert import convert as run

    done = run(path, out, fps, size, task, workers, camera=camera, moving=moving, labels=labels)
    print(f"wrote {done.out}: {done.episodes} episodes, {len(done.skipped)} skipped")
    for one in done.skipped[:SHOWN]:
        print(f"  skipped {one.path}: {one.reason}")
    if len(done.skipped) > SHOWN:
        print(f"  and {len(done.skipped) - SHOWN} more")
    if done.dropped:
        print(f"  columns left out, since they are text or not every episode has them: {', '.join(done.dropped)}")
    if done.labelled:
        print("  {} of {} frames have a label".format(*done.labelled))
    if fps:
        for rate, count in done.paced.items():
            told = f"{fps / rate:.3g} times as fast as their files, which say {rate:g}"
            print(f"  --fps {fps:g} plays {count} of them {told}")
