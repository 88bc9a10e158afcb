"""``dila encode``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dila.cli.arguments import Data, read


def encode(
    path: Positional[Data],
    out: Path | None = None,
    encoder: str = "efficientnet-lite0",
    size: int | None = None,
    fps: float | None = None,
    camera: str | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int = 2,
    device: str = "auto",
) -> None:
    """Fill the feature cache with a corpus, so that training starts at once and needs no encoder.

    Interrupted, the same command goes on where it stopped.

    Args:
        path: a video, a folder of frames, a data set, or a folder with any number of them at any depth.
        out: folder of the cache, as `dila train --cache-dir` takes it; $DILA_CACHE or ~/.cache/dila/features when left
            out. With a cluster, one that all its machines see.
        encoder: name of the encoder.
        size: pixels a side that frames are brought to; the encoder's own when left out.
        fps: frames a second, instead of what the files say.
        camera: of episodes that several cameras saw, this one alone, such as observation.images.front.
        engine: local, or ray: a cluster (the one that $RAY_ADDRESS names, else processes of this machine).
        workers: processes on the cluster.
        device: auto, cpu, cuda or mps; of local.
    """
    from dila.imagine.encode import encode_corpus
    from dila.interop.pretrained import pick_device
    from dila.train.material import default_cache
    from dila.vision import build_encoder

    made = build_encoder({"name": encoder} | ({} if size is None else {"size": size}))
    if engine == "local":
        made.to(pick_device(device))
    done = encode_corpus(path, made, out or default_cache(), fps=fps, camera=camera, engine=engine, workers=workers)
    print(
        f"{done.folder} has {done.episodes} episodes, {done.frames} frames; {done.new} episodes are new, "
        f"{len(done.skipped)} skipped"
    )
    for name, reason in done.skipped.items():
        print(f"  skipped {name}: {reason}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(encode, "encode", arguments)
