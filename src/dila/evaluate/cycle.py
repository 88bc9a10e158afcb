"""Table 2: action cycle transfer, with the rollout and one-step errors by which the ablations are compared.

The latent actions of clip A are rolled out from the first frame of clip B, which is of another episode. Latent actions
are inferred again from the predicted clip and rolled out from A's first frame, and the result is compared with A. If z
encodes more than the action, such as the appearance of B, the result differs from A.
"""

import time
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from dila.errors import DilaError
from dila.evaluate.bench import Bench, Pictures, stacked
from dila.evaluate.generation import imagine, make_judge
from dila.evaluate.judge import BETTER, UNDRAWN, Judge
from dila.evaluate.result import Result, score_ratio, score_rows
from dila.imagine.transfer import Cycle, cycle
from dila.imagine.windows import infer_long
from dila.model.dila import DiLA
from dila.protocols import LatentActionModel
from dila.shapes import Features, Float, Tensor


def measure_cycle(bench: Bench) -> Result:
    """Measure cycle transfer from every pinned clip to one of another episode and back.

    Raises:
        DilaError: all clips are of the same episode.
    """
    began = time.monotonic()
    judge, other = make_judge(bench), partners(bench.pins.owners)
    kept: list[dict[str, Tensor]] = []
    pictures: dict[str, str] = {}
    for a, o, places in bench.batches():
        b = bench.clips([other[i] for i in places]).frames.to(bench.device)
        with bench.world.running():
            made = cycle(bench.world.model, a, b, bench.world.frames)
            z = infer_long(bench.world.model, a, bench.world.frames)
            stepped = one_step(bench.world.model, a, z)
        e_hat = {"cycle": made.back.float(), "rollout": imagine(bench.world, a, 1), "one_step": stepped.float()}
        kept.append(_errors(a, e_hat) | {"z_cosine": F.cosine_similarity(made.z.float(), made.z_again.float(), dim=-1)})
        if judge:
            kept[-1] |= _pixels(bench, judge, o, e_hat)
            pictures |= _draw(bench, places, other, a, b, made)
    rows, owners = stacked(kept), bench.owners
    scores = [
        score_ratio(f"{name}_over_copying", rows[f"feature_mse/{name}"], rows["feature_mse/copying"], owners)
        for name in ("cycle", "rollout")
    ]
    scores += [
        score_rows(name, values, owners, "higher" if name == "z_cosine" else BETTER.get(name.split("/")[0], "lower"))
        for name, values in rows.items()
    ]
    return bench.finish("cycle", began, scores, notes=judge.notes if judge else UNDRAWN, pictures=pictures)


def one_step(model: LatentActionModel, e: Features, z: Float[Tensor, "B K Dz"]) -> Float[Tensor, "B K H W D"]:
    """Predict every frame from the true frames before it; in parallel for a DiLA, else with the protocol's methods."""
    if isinstance(model, DiLA):
        return model.predict(model.observe(e), e, z).e_hat
    return torch.stack([model.step(model.start(e[:, : k + 1]), z[:, k])[1] for k in range(z.shape[1])], dim=1)


def partners(owners: Sequence[int]) -> list[int]:
    """Return, for each clip, the index of a clip of another episode; deterministic.

    Raises:
        DilaError: there is only one episode.
    """
    count, half = len(owners), len(owners) // 2
    found = []
    for place in range(count):
        others = ((place + half + i) % count for i in range(count))
        other = next((i for i in others if owners[i] != owners[place]), None)
        if other is None:
            raise DilaError("all pinned clips are of the same episode; hold out more episodes, or pin more clips")
        found.append(other)
    return found


def _errors(a: Features, e_hat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    predicted = {**e_hat, "copying": a[:, :1].float()}
    return {f"feature_mse/{name}": (e - a[:, 1:].float()).square().mean((2, 3, 4)) for name, e in predicted.items()}


def _pixels(bench: Bench, judge: Judge, o: Pictures, e_hat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    assert bench.world.decoder is not None
    with torch.no_grad():
        seen = {name: judge.look(bench.world.decoder.decode(e)) for name, e in e_hat.items()}
        true = judge.look(o)
    return judge.compare_all({name: (side, true.rest) for name, side in (seen | {"copying": true.still}).items()})


def _draw(
    bench: Bench, places: Sequence[int], other: Sequence[int], a: Features, b: Features, made: Cycle
) -> dict[str, str]:
    """Draw the first of the pinned clips."""
    written: dict[str, str] = {}
    for row, place in enumerate(place for place in places if place < bench.settings.pictures):
        o_a, o_b = bench.pictures(place), bench.pictures(other[place])
        there, back = (torch.cat([e[row, :1], e_hat[row].float()]) for e, e_hat in ((b, made.there), (a, made.back)))
        rows = {
            "A": o_a,
            "A's actions in B's scene": bench.world.draw(there, o_b),
            "inferred again from that, in A's scene": bench.world.draw(back, o_a),
        }
        written |= bench.show(f"cycle_{place}", rows, f"{bench.rows[place]}: cycle transfer")
    return written
