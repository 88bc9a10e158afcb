"""``dila encode``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from dila.cli.arguments import Camera, Data, Fps, read
from dila.recipes.command import encoder_flags


def _encoder(eyes: Any) -> Callable[..., None]:
    """Make the verb for an encoder, whose fields become flags with its values as defaults."""

    def encode(
        path: Positional[Data],
        out: Path | None = None,
        encoder: Annotated[Any, tyro.conf.arg(constructor=type(eyes))] = eyes,
        fps: Fps = None,
        camera: Camera = None,
        engine: Literal["local", "ray"] = "local",
        workers: int = 2,
        device: str = "auto",
    ) -> None:
        """Encode a corpus into the feature cache, so that training starts at once and needs no encoder.

        If interrupted, the same command resumes.

        Args:
            path: a video, a folder of frames, a data set, or a folder with any number of them at any depth.
            out: folder of the cache, shared by a cluster's machines; default $DILA_CACHE or ~/.cache/dila/features.
            encoder: name and fields of the frozen encoder, as in `dila train`.
            engine: local, or ray: the cluster that $RAY_ADDRESS names, or processes of this machine.
            workers: number of processes on the cluster.
            device: auto, cpu, cuda or mps, for the local engine.
        """
        from dila.configs import to_json
        from dila.imagine.encode import encode_corpus
        from dila.interop.pretrained import pick_device
        from dila.train.material import default_cache
        from dila.vision import build_encoder

        made = build_encoder(to_json(encoder))
        if engine == "local":
            made.to(pick_device(device))
        done = encode_corpus(path, made, out or default_cache(), fps=fps, camera=camera, engine=engine, workers=workers)
        print(
            f"{done.folder} has {done.episodes} episodes, {done.frames} frames; {done.new} episodes are new, "
            f"{len(done.skipped)} skipped"
        )
        for name, reason in done.skipped.items():
            print(f"  skipped {name}: {reason}")

    return encode


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, with flags for the fields of the named encoder, and run."""
    read(_encoder(encoder_flags(arguments, {"name": "efficientnet-lite0"})), "encode", arguments)
