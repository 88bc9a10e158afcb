"""``dila train-decoder``."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from dila.cli.arguments import Data, Device
from dila.errors import DilaError
from dila.train.run import DecoderRun


def train_decoder(
    model: Positional[str],
    data: Data | None = None,
    rae: Path | None = None,
    out: Path | None = None,
    held_out: float | None = None,
    fps: float | None = None,
    camera: str | None = None,
    cache_dir: Path | None = None,
    device: Device = "auto",
    settings: Annotated[DecoderRun, tyro.conf.arg(name="")] = DecoderRun(),  # noqa: B008 (frozen)
) -> None:
    """Train a small decoder that turns a trained model's predictions into pictures, and attach it to the model.

    With --rae, attach the published decoder of the model's features instead; nothing is trained.

    Args:
        model: folder of a trained model or of a run.
        data: the corpus to train on; its held-out episodes are excluded.
        rae: the RAE's decoder file, for a model on DINOv2 features.
        out: folder for the model with its decoder; default: the model's own.
        held_out: share of the episodes excluded; default: that of the model's run, or 0.1.
        fps: frames per second; overrides the rate stated in the files. Default: the run's.
        camera: read only this camera of multi-camera recordings. Default: the run's.
        cache_dir: folder of encoded features.
        settings: settings of the decoder and its training.
    """
    from dila.train.decoder import attach_rae
    from dila.train.decoder import train_decoder as train

    if data is not None and rae is None:
        made = train(
            model, data, out, settings, held_out=held_out, fps=fps, camera=camera, cache_dir=cache_dir, device=device
        )
    elif rae is not None and data is None:
        made = attach_rae(model, rae, out)
    else:
        raise DilaError("give either --data PATH, to train a decoder, or --rae FILE, to attach the published one")
    print(f"the model with its decoder is in {made}")
