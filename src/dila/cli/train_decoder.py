"""``dila train-decoder``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from dila.cli.arguments import Data, read
from dila.train.run import DecoderRun


def train_decoder(
    model: Positional[str],
    data: Data,
    out: Path | None = None,
    cache_dir: Path | None = None,
    device: str = "auto",
    settings: Annotated[DecoderRun, tyro.conf.arg(name="")] = DecoderRun(),  # noqa: B008 (frozen)
) -> None:
    """Train a small decoder for a trained model and attach it, so that its predictions can be looked at.

    Args:
        model: folder of a trained model or of a run.
        data: the corpus to learn from.
        out: folder for the model with its decoder; the model's own when left out.
        cache_dir: where encoded features are kept.
        device: auto, cpu, cuda or mps.
        settings: of the decoder and its training.
    """
    from dila.train.decoder import train_decoder as train

    print(f"the model with its decoder is in {train(model, data, out, settings, cache_dir=cache_dir, device=device)}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(train_decoder, "train-decoder", arguments)
