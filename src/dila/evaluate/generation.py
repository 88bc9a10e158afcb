"""Table 1 and figures 7, 9, 10: rollouts from a few context frames under the clip's own latent actions.

Errors are measured in the features that the model predicts and in pixels. The baseline repeats the last context frame.
In pixels, five comparisons separate the model's error from the decoder's:

=================  ==============================================================================================
imagined           imagined frames against true frames, at the decoder's resolution, as published
imagined_drawn     imagined frames against the true features drawn by the same decoder: the model's error alone
decoder            true features drawn by the decoder against true frames: the decoder's error alone
copying            the last context frame repeated, against true frames
copying_drawn      the same, both drawn by the decoder
=================  ==============================================================================================
"""

import time
from collections.abc import Mapping, Sequence

import torch

from dila.evaluate.bench import Batch, Bench, spread, stacked
from dila.evaluate.judge import BETTER, UNDRAWN, Judge, Seen
from dila.evaluate.result import Result, Score, score_ratio, score_rows
from dila.imagine.rollout import rollout
from dila.imagine.windows import infer_long
from dila.imagine.world import World
from dila.metrics.video import frechet_distance
from dila.shapes import Features, Float, Tensor

PAIRS = {
    "imagined": ("imagined", "true"),
    "imagined_drawn": ("imagined", "drawn"),
    "decoder": ("drawn", "true"),
    "copying": ("copied", "true"),
    "copying_drawn": ("copied_drawn", "drawn"),
}
"""The five comparisons above, as pairs of keys of `look`."""


def measure_generation(bench: Bench) -> Result:
    """Roll out every pinned clip from its context.

    Raises:
        DilaError: a clip cannot be read, or the I3D file cannot be used.
    """
    began = time.monotonic()
    context = bench.settings.context
    judge = make_judge(bench)
    kept: list[dict[str, Tensor]] = []
    clips: list[dict[str, Tensor]] = []
    pictures: dict[str, str] = {}
    for batch in bench.batches():
        e_hat = imagine(bench.world, batch.e, context)
        kept.append(feature_errors(e_hat, batch.e, context))
        if judge:
            looks = look(bench.world, judge, e_hat, batch, context)
            kept[-1] |= judge.compare_all({name: (looks[a], looks[b]) for name, (a, b) in PAIRS.items()})
            clips.append({name: judge.clip_features(seen) for name, seen in looks.items()})
        pictures |= _strips(bench, batch, e_hat)
    scores = _scores(stacked(kept), bench)
    if judge:
        features = stacked(clips)
        scores += [
            Score(f"{judge.frechet}/{name}", frechet_distance(features[a], features[b]), better="lower")
            for name, (a, b) in PAIRS.items()
        ]
    return bench.finish("generation", began, scores, notes=judge.notes if judge else UNDRAWN, pictures=pictures)


def make_judge(bench: Bench) -> Judge | None:
    """Return a judge at the decoder's resolution, or None if the model has no decoder."""
    decoder = bench.world.decoder
    if decoder is None:
        return None
    grid, channels = bench.world.encoder.grid, bench.world.encoder.feature_dim
    drawn = decoder.decode(torch.zeros(1, 1, *grid, channels, device=bench.device))
    return Judge((int(drawn.shape[-2]), int(drawn.shape[-1])), bench.device, bench.settings.i3d)


def imagine(world: World, e: Features, context: int) -> Float[Tensor, "B K H W D"]:
    """Roll out the frames after the context, under the latent actions inferred from the whole clip."""
    with world.running():
        z = infer_long(world.model, e, world.frames)[:, context - 1 :]
        return rollout(world.model, e[:, :context], z).float()


def feature_errors(e_hat: Float[Tensor, "B K H W D"], e: Features, context: int) -> dict[str, Float[Tensor, "B K"]]:
    """Return squared feature errors of the rollout and of repeating the last context frame."""
    true, last = e[:, context:].float(), e[:, context - 1 : context].float()
    return {
        "feature_mse/imagined": (e_hat - true).square().mean((2, 3, 4)).cpu(),
        "feature_mse/copying": (last - true).square().mean((2, 3, 4)).cpu(),
    }


def look(world: World, judge: Judge, e_hat: Features, batch: Batch, context: int) -> dict[str, Seen]:
    """Return imagined frames, true frames, true features drawn by the decoder, and the repeated context frame."""
    assert world.decoder is not None
    e, steps = batch.e, e_hat.shape[1]
    with torch.no_grad():
        drawn = world.decoder.decode(torch.cat([e_hat, e[:, context - 1 :].float()], dim=1))
        true = judge.look([clip[context - 1 :] for clip in batch.o])
        imagined, decoded = judge.look(drawn[:, :steps]), judge.look(drawn[:, steps:])
    return {
        "imagined": imagined,
        "true": true.rest,
        "drawn": decoded.rest,
        "copied": true.still,
        "copied_drawn": decoded.still,
    }


def _scores(told: Mapping[str, Tensor], bench: Bench) -> list[Score]:
    owners = bench.owners
    ratio = score_ratio("feature_error_over_copying", told["feature_mse/imagined"], told["feature_mse/copying"], owners)
    return [
        ratio,
        *(score_rows(name, values, owners, BETTER.get(name.split("/")[0], "lower")) for name, values in told.items()),
    ]


def _strips(bench: Bench, batch: Batch, e_hat: Features) -> dict[str, str]:
    """Write strips and videos of the first pinned clips of different episodes: true frames above imagined ones."""
    if bench.world.decoder is None:
        return {}
    written: dict[str, str] = {}
    context = bench.settings.context
    for number, place in enumerate(_first_of_each(bench.pins.owners, bench.settings.pictures)):
        if place not in batch.places:
            continue
        row = place - batch.places.start
        o, given = bench.world.pictures(batch.o[row]), batch.e[row, :context].float()
        rows = {
            "true frames": o,
            "true features, drawn": bench.world.draw(batch.e[row], o),
            f"{context} frame{'s' if context > 1 else ''} given, then imagined": bench.world.draw(
                torch.cat([given, e_hat[row]]), o
            ),
        }
        caption = f"{bench.rows[place]}: true frames, and the rollout under its latent actions"
        written |= bench.show(f"rollout_{number}", rows, caption)
    return written


def _first_of_each(owners: Sequence[int], count: int) -> list[int]:
    """Return the first row of each of ``count`` episodes, spread over all."""
    first = [owners.index(owner) for owner in sorted(set(owners))]
    return [first[i] for i in spread(len(first), count)]
