"""How the model that comes with the package was made: trained on Push-T and objects3d, evaluated, packed.

The data is 14 MB of video (recording objects3d needs the extra ``sim``, Push-T ``pusht``; training needs neither)::

    dila data record pusht recordings/pusht --episodes 240
    dila data record objects3d recordings/objects3d --episodes 320 --frames 24 --format mp4
    python -m dila.recipes.box recordings/pusht recordings/objects3d --out outputs/box

``outputs/box/model`` then replaces ``src/dila/box``, if its scores are at least as good.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from dila.data import Corpus, name_data, open_corpus
from dila.errors import DilaError
from dila.evaluate.factors import components
from dila.evaluate.first_look import measure_probe, measure_rollouts, split_features
from dila.imagine.world import World
from dila.interop import box as boxed
from dila.interop.pack import pack
from dila.interop.pretrained import load_pretrained
from dila.recipes.command import command
from dila.recipes.tiny_pusht import tiny_pusht
from dila.train.run import DecoderRun, Run

PROBED = {"agent_x", "agent_y", "x", "y", "log_scale", "angle"}
"""Components of the true state whose change the linear probe predicts from z, if a recording has them."""


def box() -> Run:
    """`tiny_pusht` with twice the steps, for a model of Push-T and of objects that rotate, grow and move.

    Hardware: two CPU cores, 4 GB. Time and score: 35 minutes; rollout error 0.49 and probe R² 0.85 on Push-T, 0.61 and
    0.66 on objects.
    """
    return replace(
        scaled(tiny_pusht(), 2.0),
        name="box",
        evaluate_every=400,
        decoder=DecoderRun(steps=6_000, width=48, max_width=192),
        trackers=(),
    )


def make_box(
    data: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH"), tyro.conf.Positional],
    out: Path = Path("outputs/box"),
    scale: float = 1.0,
) -> Path:
    """Train, evaluate on the held-out episodes of each data set, and pack. If interrupted, the same command resumes.

    Args:
        data: recordings; the docstring of this module shows how to make them.
        out: folder of features, run and model.
        scale: factor of the number of steps, for a shorter or longer run.

    Returns:
        The folder of the model, with its model card.

    Raises:
        DilaError: the data cannot be used for training, or the model is too large for the package.
    """
    return make(scaled(box(), scale), data, out)


def make(run: Run, data: Sequence[str], out: Path) -> Path:
    """Train, evaluate and pack any run, as `make_box` does."""
    from dila.train.loop import train

    run = replace(run, weights=(1.0,) * len(data))  # equal shares
    checkpoint = train(run, data, out / "run", cache_dir=out / "features")
    world = World(*load_pretrained(checkpoint, device="auto"), bf16=run.precision == "bf16")
    names = name_data(list(data))
    corpora = {name: open_corpus(path) for name, path in zip(names, data, strict=True)}
    about = {
        "title": "The model in the box",
        "data": "; ".join(f"{name}, {len(corpus)} recorded episodes" for name, corpus in corpora.items())
        + "; one episode in ten is held out for the numbers below. No action label was seen.",
        "limits": "It was trained on these recordings only, and its predictions resemble them whatever the input.",
    }
    folder = pack(checkpoint, out / "model", about)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > boxed.BYTES:
        raise DilaError(
            f"{folder} has {size / 2**20:.1f} MB, but the limit is {boxed.BYTES / 2**20:.0f}; make the model smaller"
        )
    # Packed before the evaluation, so that the model is kept if the machine goes away meanwhile.
    scores = {name: measure(world, run, corpus, out / "features") for name, corpus in corpora.items()}
    return pack(checkpoint, out / "model", about | {"scores": scores})


def scaled(run: Run, share: float) -> Run:
    """Return the run with its steps, and those of its decoder, multiplied by `share`."""
    if not share > 0:
        raise DilaError(f"scale = {share} must be above 0")
    stages = tuple(replace(stage, steps=max(1, round(stage.steps * share))) for stage in run.stages)
    optimiser = replace(run.optimiser, warmup=round(run.optimiser.warmup * min(1, share)))
    decoder = run.decoder and replace(run.decoder, steps=max(1, round(run.decoder.steps * share)))
    return replace(run, stages=stages, optimiser=optimiser, decoder=decoder)


def measure(world: World, run: Run, corpus: Corpus, cache_dir: Path) -> dict[str, float]:
    """Compute scores on a corpus's held-out episodes; `dila.interop.card` explains their names."""
    train, held = split_features(world, corpus, run.clips.held_out, cache_dir)
    scores = {"rollout_ratio": measure_rollouts(world, held, run.clips.frames - 1).pooled}
    names = corpus.names.get("state", ())
    if wanted := [name for name in names if name in PROBED]:
        factors = components("state", wanted, len(names), corpus.names)
        scores |= measure_probe(world, train, held, factors, "state").scores
    return scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def run() -> str:
        folder = tyro.cli(make_box, prog="python -m dila.recipes.box", args=arguments)
        return f"the model is in {folder}; its numbers are in {folder / 'README.md'}"

    return command("box", run)


if __name__ == "__main__":
    sys.exit(main())
