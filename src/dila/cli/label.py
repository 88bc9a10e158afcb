"""``dila label``."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dila.cli.arguments import Camera, Data, Device, Fps, Model, open_world
from dila.errors import at_least


def label(
    model: Positional[Model],
    videos: Positional[Data],
    out: Path = Path("outputs/latent_actions.parquet"),
    fps: Fps = None,
    camera: Camera = None,
    every_frame: bool = False,
    actions: bool = False,
    batch: int = 8,
    device: Device = "auto",
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
) -> None:
    """Infer the latent actions of a video or of a folder of videos and write them to one Parquet file.

    Columns: file, frame, time (seconds), next (frame), z, valid, and action on request; one row per sampled frame. The
    last row of each video is not valid.
    If interrupted, the same command resumes.

    Args:
        videos: a video, a folder of frames, or a folder with any number of them at any depth.
        out: Parquet file to write; older labels there are replaced.
        every_frame: label every frame of a video, instead of one per stride of the model.
        actions: also write the real actions that z stands for, by the map of a model from `dila adapt`.
        batch: windows per batch.
        engine: local, or ray: the cluster that $RAY_ADDRESS names, or processes of this machine.
        workers: number of processes on the cluster.
    """
    from dila.interop.actions import load_actions

    at_least(1, batch=batch, workers=workers)
    to_action = load_actions(model)[1] if actions else None
    world = open_world(model, device, draws=False)
    done = world.label(
        videos, out, fps=fps, camera=camera, every_frame=every_frame, batch=batch, engine=engine, workers=workers,
        to_action=to_action,
    )  # fmt: skip
    print(f"wrote {done.path}: {done.actions} latent actions of {done.videos} videos, {len(done.skipped)} skipped")
    for name, reason in done.skipped.items():
        print(f"  skipped {name}: {reason}")
