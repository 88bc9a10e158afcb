"""Figure 4: rebinding and motion isolation, with metrics.

Rebinding combines the structure of clip A with the content of clip B, which is of another episode. Is A's layout kept?
A linear probe, fitted on true frames of training episodes, predicts the state from the rebound clip. The prediction
should agree with A's state (``layout_r2/structure_clip``; ``layout_r2/true_frames`` is the upper bound) and be nearer
to it than to B's: ``layout_distance`` is 1 at A's state, 0 at B's, about 0.5 if it is unrelated to both. The probe from
raw features (``e``) needs many rows; the one from the structure of the rebound clip (``s``) needs fewer, but depends on
the model under test. Is B's appearance kept? ``look_distance`` compares means and standard deviations of the feature
channels: 0 if they are B's, 1 if they are A's. Without known states, ``motion_correlation`` shows whether A's motion is
kept: the change of every cell from frame to frame in the rebound clip, correlated with that in A (``structure_clip``)
and in B (``content_clip``, about 0 if they move independently). Isolation freezes A's structure: ``motion_left`` is the remaining
motion over that of the clip.
"""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from dila.analysis.probe import predict
from dila.data import Clips, collate_clips
from dila.errors import DilaError
from dila.evaluate.bench import PART, Bench, in_parts, spread, stacked
from dila.evaluate.cycle import partners
from dila.evaluate.disentangle import dila_of, known_columns
from dila.evaluate.factors import is_known
from dila.evaluate.probing import owners
from dila.evaluate.result import Better, Result, Score, score_ratio, score_rows
from dila.imagine.isolate import isolate
from dila.imagine.rebind import rebind
from dila.model.dila import DiLA
from dila.shapes import Features, Float, Tensor

MOVES: dict[str, Better] = {
    "motion_correlation/structure_clip": "higher",
    "motion_correlation/content_clip": "neither",
}


def measure_motion(bench: Bench) -> Result:
    """Rebind every pinned clip with the content of another, and freeze its structure.

    Raises:
        DilaError: the model has no structure and content, there is only one episode, or clips have only two frames.
    """
    began = time.monotonic()
    if bench.pins.frames < 3:
        raise DilaError("motion needs clips of at least three frames; pin longer clips")
    model = dila_of(bench, "motion")
    other = partners(bench.pins.owners)
    kept: list[dict[str, Tensor]] = []
    pictures: dict[str, str] = {}
    for places in in_parts(len(other)):
        a, b = (bench.clips(side) for side in (places, [other[i] for i in places]))
        e_a, e_b = a.frames.to(bench.device), b.frames.to(bench.device)
        with bench.world.running():
            bound, still = rebind(model, e_a, e_b).e.float(), isolate(model, e_a).e.float()
            s = [model.read(clip).float() for clip in (bound, e_a[:, 1:])]
        told = _look(bound, e_a, e_b) | _left(still, e_a) | _moves_as(bound, e_a, e_b)
        told |= {"e bound": bound, "e true": a.frames[:, 1:].float(), "s bound": s[0], "s true": s[1]}
        for side, clips in (("a ", a), ("b ", b)):
            told |= {side + name: values for name, values in known_columns(clips).items()}
        kept.append({name: values.cpu() for name, values in told.items()})
        if bench.world.decoder is not None:
            pictures |= _draw(bench, places, other, bound, still)
    rows = stacked(kept)
    layout = _layout(bench, model, rows)
    scores = [
        score_ratio("look_distance", rows["to_b"], rows["to_a"] + rows["to_b"], bench.owners),
        score_ratio("motion_left", rows["left"], rows["own"], bench.owners),
        *(score_rows(name, rows[name], bench.owners, better) for name, better in MOVES.items()),
        *layout,
    ]
    notes = [f"pinned clips: {told}" for told in bench.unknown(_columns(rows, "a "))]
    if not layout:
        notes.append("layout scores are omitted: they need a column state; motion_correlation needs none")
    return bench.finish("motion", began, scores, notes=notes, pictures=pictures)


def statistics(e: Features) -> Float[Tensor, "B F"]:
    """Mean and standard deviation of every channel over all frames and cells of a clip."""
    return torch.cat([e.float().mean((1, 2, 3)), e.float().std((1, 2, 3), correction=0)], dim=-1)


def _look(bound: Float[Tensor, "B K H W D"], a: Features, b: Features) -> dict[str, Tensor]:
    to_a, to_b = ((statistics(bound) - statistics(clip[:, 1:])).norm(dim=-1) for clip in (a, b))
    return {"to_a": to_a, "to_b": to_b}


def _moves_as(bound: Float[Tensor, "B K H W D"], a: Features, b: Features) -> dict[str, Tensor]:
    """Correlation of the change of each cell from frame to frame with that in A and in B, one per clip."""
    moved, *others = (_changes(clip).flatten(1) for clip in (bound, a[:, 1:], b[:, 1:]))
    return {name: _correlation(moved, other) for name, other in zip(MOVES, others, strict=True)}


def _changes(e: Features) -> Float[Tensor, "B K H W"]:
    return (e[:, 1:].float() - e[:, :-1].float()).square().mean(-1)


def _correlation(x: Float[Tensor, "B N"], y: Float[Tensor, "B N"]) -> Float[Tensor, " B"]:
    """Pearson's, 0 for a constant."""
    x, y = (side - side.mean(1, keepdim=True) for side in (x, y))
    return F.cosine_similarity(x, y)


def _left(still: Float[Tensor, "B K H W D"], e: Features) -> dict[str, Tensor]:
    return {"left": _changes(still).mean((1, 2, 3)), "own": _changes(e[:, 1:]).mean((1, 2, 3))}


def _layout(bench: Bench, model: DiLA, rows: dict[str, Tensor]) -> list[Score]:
    """Score the states predicted from rebound clips by a probe of true frames; empty if the data have no state."""
    inputs, columns, episode = _training(bench, model)
    a, b = (_columns(rows, side) for side in ("a ", "b "))
    known = bench.factors(a)
    scores: list[Score] = []
    for factor in bench.factors(columns):
        if factor.column != "state" or factor not in known:
            continue
        y = factor.of(columns)[:, 1:].flatten(0, 1)
        told = is_known(y)
        for name, x in inputs.items():
            drawn = torch.cat([_flat(rows[f"{name} bound"]), _flat(rows[f"{name} true"])])
            bound, true = predict(x[told], y[told], episode[told], drawn, bench.settings.seed).split(len(drawn) // 2)
            state_a, state_b = (factor.of(side)[:, 1:].flatten(0, 1) for side in (a, b))
            scores += [
                Score(f"layout_r2/structure_clip/{factor.name}/{name}", _r2(bound, state_a), better="higher"),
                _nearer(f"layout_distance/{factor.name}/{name}", bound, state_a, state_b, bench.owners),
                Score(f"layout_r2/true_frames/{factor.name}/{name}", _r2(true, state_a), better="neither"),
            ]
    return scores


def _columns(rows: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    """Columns of the clips with this prefix."""
    return {name.removeprefix(side): values for name, values in rows.items() if name.startswith(side)}


def _nearer(name: str, read: Tensor, a: Tensor, b: Tensor, owners: Tensor) -> Score:
    """Distance of the prediction from B's state over the sum of its distances from both, where both are known.

    R² against B's state would not do: it has no lower bound, and noise would score lower than exactly A's layout.
    """
    told = is_known(a) & is_known(b)
    if not told.any():
        return Score(name, None)
    to_a, to_b = ((read[told] - side[told]).norm(dim=-1) for side in (a, b))
    return score_ratio(name, to_b, to_a + to_b, owners.repeat_interleave(len(read) // len(owners))[told], "higher")


def _training(bench: Bench, model: DiLA) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Features and structure of training clips, their columns, and episodes: one row per frame except the first."""
    frames = min(4, bench.world.frames)
    cut = Clips(bench.train, frames, bench.world.stride, hop=frames)
    batch = collate_clips([cut[i] for i in spread(len(cut), -(-bench.settings.pairs // (frames - 1)))])
    with bench.world.running():
        parts = [model.read(e.to(bench.device))[:, 1:].float().cpu() for e in batch.frames.split(PART)]
    inputs = {"e": _flat(batch.frames[:, 1:].float()), "s": _flat(torch.cat(parts))}
    return inputs, known_columns(batch), owners(batch, frames - 1)


def _flat(maps: Float[Tensor, "B K H W D"]) -> Float[Tensor, "N HWD"]:
    return maps.flatten(0, 1).flatten(1)


def _r2(predicted: Tensor, true: Tensor) -> float | None:
    """R² over the frames with known truth; None if there are none."""
    told = is_known(true)
    if not told.any():
        return None
    predicted, true = predicted[told], true[told]
    total = (true - true.mean(0)).square().sum().clamp_min(1e-12)
    return float(1 - (predicted - true).square().sum() / total)


def _draw(bench: Bench, places: Sequence[int], other: Sequence[int], bound: Tensor, still: Tensor) -> dict[str, str]:
    """Draw the first of the pinned clips."""
    written: dict[str, str] = {}
    world = bench.world
    for row, place in enumerate(place for place in places if place < bench.settings.pictures):
        a, b = bench.pictures(place)[1:], bench.pictures(other[place])[1:]
        rebound = {"structure from": a, "content from": b, "rebound": world.draw(bound[row], a)}
        frozen = {"true": a, "structure frozen": world.draw(still[row], a)}
        written |= bench.show(f"rebind_{place}", rebound, "The structure of one clip with the content of another.")
        told = "The structure of the first frame throughout: the remaining motion comes from content."
        written |= bench.show(f"isolate_{place}", frozen, told)
    return written
