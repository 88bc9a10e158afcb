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

    All cameras of a recording become one episode, with its tasks and splits. If interrupted, the same command
    resumes.

    Args:
        path: a video, a folder of frames, or a folder with any number of them at any depth.
        out: folder of the data set.
        fps: frames per second to declare; changes the speed of playback, resamples nothing. Default: the most common.
        camera: convert only this camera of multi-camera recordings, such as observation.images.front.
        size: pixels a side (even) to resize to, ignoring the aspect ratio. Default: the size of the first episode.
        task: description of the task, for all episodes; by default, the source's tasks.
        workers: number of processes.
        moving: exclude static clips and clips with a moving camera, by the limits in docs/data.md.
        labels: file of labels of these videos from dila label, to store as latent_action and latent_action_valid.
    """
    from dila.data.convert import SKIPPED
    from dila.data.convert import convert as run

    done = run(path, out, fps, size, task, workers, camera=camera, moving=moving, labels=labels)
    print(f"wrote {done.out}: {done.episodes} episodes, {len(done.skipped)} skipped")
    if done.left_out:
        print(f"  {done.left_out} of {done.readable} readable episodes left out")
    for one in done.skipped[:SHOWN]:
        print(f"  skipped {one.path}: {one.reason}")
    if len(done.skipped) > SHOWN:
        print(f"  and {len(done.skipped) - SHOWN} more; all are in {done.out / SKIPPED}")
    if done.dropped:
        print(f"  columns left out, because they are text or missing in some episodes: {', '.join(done.dropped)}")
    if done.labelled:
        print("  {} of {} frames have a label".format(*done.labelled))
    if fps:
        for rate, count in done.paced.items():
            told = f"{fps / rate:.3g} times as fast as the rate stated in their files, {rate:g}"
            print(f"  --fps {fps:g} plays {count} of them {told}")
