"""Table 2: action cycle transfer, beside the rollout and the one-step error that the ablations are compared by.

The latent actions of clip A are rolled out on the first frame of clip B, of another episode; inferred again from what
was imagined there, and rolled out on A's first frame; the result is compared with A. What z carries besides the action,
B's appearance among it, is lost or spoilt on the way.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from dila.data import collate_clips
from dila.errors import DilaError
from dila.evaluate.bench import PART, Bench, Pictures
from dila.evaluate.generation import feature_errors, imagine, make_judge
from dila.evaluate.judge import BETTER, Judge, repeat_frames
from dila.evaluate.result import Result, score_ratio, score_rows
from dila.imagine.transfer import Cycle, cycle
from dila.imagine.windows import infer_long
from dila.model.dila import DiLA
from dila.protocols import LatentActionModel
from dila.shapes import Features, Float, Tensor


def measure_cycle(bench: Bench) -> Result:
    """Cycle transfer over pairs of pinned clips, each with one of another episode.

    Raises:
        DilaError: all clips are of one episode.
    """
    began = time.monotonic()
    judge = make_judge(bench)
    kept: dict[str, list[Tensor]] = defaultdict(list)
    pictures: dict[str, str] = {}
    for place, (a, b, o) in _pairs(bench):
        with bench.world.running():
            made = cycle(bench.world.model, a, b, bench.world.frames)
            z = infer_long(bench.world.model, a, bench.world.frames)
            stepped = one_step(bench.world.model, a, z).float()
        told = _errors(a, made, stepped, imagine(bench.world, a, 1))
        if judge:
            told |= _pixels(bench, judge, a, o, made)
        for name, values in told.items():
            kept[name].append(values.cpu())
        if judge and len(pictures) < 2 * bench.settings.pictures:
            pictures |= _draw(bench, a, b, made, place, bench.settings.pictures - len(pictures) // 2)
    rows = {name: torch.cat(parts) for name, parts in kept.items()}
    owners = bench.owners
    scores = [
        score_ratio(f"{name}_over_copying", rows[f"feature_mse/{name}"], rows["feature_mse/copying"], owners)
        for name in ("cycle", "rollout")
    ]
    scores += [
        score_rows(name, values, owners, "higher" if name == "z_cosine" else BETTER.get(name.split("/")[0], "lower"))
        for name, values in rows.items()
    ]
    notes = judge.notes if judge else ("pixels are left out: the model has no decoder (dila train-decoder)",)
    return bench.finish("cycle", began, scores, notes=notes, pictures=pictures)


def one_step(model: LatentActionModel, e: Features, z: Float[Tensor, "B K Dz"]) -> Float[Tensor, "B K H W D"]:
    """Every frame predicted from the true frames before it: by a DiLA at once, else by the verbs that any model has."""
    if isinstance(model, DiLA):
        return model.predict(model.observe(e), e, z).e_hat
    return torch.stack([model.step(model.start(e[:, : k + 1]), z[:, k])[1] for k in range(z.shape[1])], dim=1)


def partners(owners: Sequence[int]) -> list[int]:
    """For each clip the place of one of another episode, the same whenever it is asked for.

    Raises:
        DilaError: there is one episode only.
    """
    count, half = len(owners), len(owners) // 2
    found = []
    for place in range(count):
        others = ((place + half + i) % count for i in range(count))
        other = next((i for i in others if owners[i] != owners[place]), None)
        if other is None:
            raise DilaError("all pinned clips are of one episode; hold out more, or pin more clips")
        found.append(other)
    return found


def _pairs(bench: Bench) -> Iterator[tuple[int, tuple[Features, Features, Pictures]]]:
    features, frames = bench.cut(bench.held), bench.cut(bench.held_frames)
    pins, other = bench.pins.clips, partners(bench.pins.owners)
    for start in range(0, len(pins), PART):
        places = range(start, min(start + PART, len(pins)))
        a = collate_clips([features(pins[i]) for i in places]).frames.to(bench.device)
        b = collate_clips([features(pins[other[i]]) for i in places]).frames.to(bench.device)
        yield start, (a, b, [frames(pins[i]).frames for i in places])


def _errors(a: Features, made: Cycle, stepped: Tensor, rolled: Tensor) -> dict[str, Tensor]:
    told = feature_errors(made.back.float(), a, 1)
    rollout = feature_errors(rolled, a, 1)["feature_mse/imagined"]
    one = (stepped - a[:, 1:].float()).square().mean((2, 3, 4))
    return {
        "feature_mse/cycle": told["feature_mse/imagined"],
        "feature_mse/rollout": rollout,
        "feature_mse/one_step": one,
        "feature_mse/copying": told["feature_mse/copying"],
        "z_cosine": F.cosine_similarity(made.z.float(), made.z_again.float(), dim=-1),
    }


def _pixels(bench: Bench, judge: Judge, a: Features, o: Pictures, made: Cycle) -> dict[str, Tensor]:
    assert bench.world.decoder is not None
    with torch.no_grad():
        back = judge.look(bench.world.decoder.decode(made.back.float()))
        true = judge.look(o)
    copied = repeat_frames(type(true)(*(part[:, :1] for part in true)), back.pixels.shape[1])
    rest = type(true)(*(part[:, 1:] for part in true))
    told = {"cycle": judge.compare(back, rest), "copying": judge.compare(copied, rest)}
    return {f"{measure}/{name}": values for name, part in told.items() for measure, values in part.items()}


def _draw(bench: Bench, a: Features, b: Features, made: Cycle, place: int, count: int) -> dict[str, str]:
    written: dict[str, str] = {}
    for row in range(min(count, len(a))):
        rows = {
            "A": bench.world.draw(a[row]),
            "A's actions in B's scene": bench.world.draw(torch.cat([b[row, :1], made.there[row].float()])),
            "read again there, back in A's scene": bench.world.draw(torch.cat([a[row, :1], made.back[row].float()])),
        }
        written |= bench.show(f"cycle_{place + row}", rows, f"{bench.rows[place + row]}: there and back again")
    return written
