"""The sceptic's test: does z encode the action, or whatever moves? The background moves independently of the action.

On such a recording (``dila data record primitives --moving-background``, or ``objects3d``), probes predict the action
and the background's motion from z, and from raw feature differences as a control. A latent action that merely explains
changes encodes the background's motion; one that encodes the action predicts the action only. Likewise, the positions
of object and background are predicted from s. With ``--still``, the same recording without the moving background
(object and transform are bit-identical), z of both recordings is compared transition by transition, which shows how
much the background alone changes z.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from dila.analysis.probe import feature_changes
from dila.data import Clips, open_corpus
from dila.errors import DilaError
from dila.evaluate.bench import Bench, sample, spread, stacked
from dila.evaluate.disentangle import FLOOR, parts_of
from dila.evaluate.factors import components
from dila.evaluate.plots import Point, draw_bars
from dila.evaluate.probing import Transitions, joined, owners, score_r2, targets, untrained_like
from dila.evaluate.result import Result, Score, score_rows
from dila.model.dila import DiLA
from dila.protocols import Episode
from dila.shapes import Tensor

COLUMN = "background"


def measure_sceptic(bench: Bench) -> Result:
    """Probe z and s for the object and for the background.

    Raises:
        DilaError: the data have no moving background, or ``--still`` is not the same recording.
    """
    began = time.monotonic()
    untrained = untrained_like(bench.world.model, bench.settings.seed)
    train, held = (_gather(bench, episodes, untrained) for episodes in (bench.train, bench.held))
    scores = [*_motions(bench, train, held), *_places(bench, train, held)]
    notes = []
    if bench.settings.still:
        scores += _twins(bench)
    else:
        notes.append("the twin comparison is omitted: it needs --still, the same recording without moving background")
    return bench.finish("sceptic", began, scores, rows=(), notes=notes, pictures=_draw(bench, scores))


def _gather(bench: Bench, episodes: Sequence[Episode], untrained: object) -> dict[str, Tensor]:
    """Inputs and targets, one row per transition (for s and e, one row per clip: its middle frame)."""
    world = bench.world
    cut = Clips(episodes, world.frames, world.stride, hop=max(1, world.frames // 2))
    if COLUMN not in cut.column_shapes or "action" not in cut.column_shapes or "state" not in cut.column_shapes:
        raise DilaError(
            f"{bench.data} has no columns action, state and {COLUMN}; record primitives or objects3d with "
            "--moving-background"
        )
    moved = components("state", (), cut.column_shapes["state"][-1], bench.names)
    told: list[dict[str, Tensor]] = []
    middle = world.frames // 2
    for batch in sample(cut, -(-bench.settings.pairs // 3)):
        e = batch.frames.to(bench.device)
        # Three transitions per clip: rows of one clip are correlated, and raw differences take much memory.
        few = [0, (world.frames - 1) // 2, world.frames - 2]
        with world.running():
            rows = {"z": world.model.infer(e).float().cpu()[:, few]}
            if untrained is not None:
                rows["untrained"] = untrained.infer(e).float().cpu()[:, few]  # type: ignore[attr-defined]
            if isinstance(world.model, DiLA) and (s := parts_of(world.model, e).get("s")) is not None:
                rows["s"] = s[:, middle : middle + 1].flatten(2).cpu()
        rows["e"] = batch.frames.float()[:, middle : middle + 1].flatten(2)
        rows["features"] = feature_changes(batch.frames.float()).unflatten(0, (len(e), -1))[:, few]
        state, background = batch.columns["state"].double(), batch.columns[COLUMN].double()
        rows |= {
            "action": targets(batch.columns, moved, change=True)[:, few],
            "background_change": (background[:, 1:] - background[:, :-1])[:, few],
            "place": state[:, middle : middle + 1, :3],
            "background_place": background[:, middle : middle + 1],
        }
        owner = {"episode": owners(batch, len(few)), "episode_of_place": owners(batch, 1)}
        told.append({name: values.flatten(0, 1) for name, values in rows.items()} | owner)
    return stacked(told)


def _motions(bench: Bench, train: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[Score]:
    asked = {"action": "action", COLUMN: "background_change"}
    names = [name for name in ("z", "untrained", "features") if name in train]
    scores = _asked(bench, train, held, names, asked, "episode")
    told = {score.name: score.value or 0.0 for score in scores}
    apart = {name: told[f"r2/action/{name}"] - max(0.0, told[f"r2/{COLUMN}/{name}"]) for name in names}
    return [*scores, *(Score(f"selectivity/{name}", value) for name, value in apart.items())]


def _places(bench: Bench, train: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> list[Score]:
    asked = {"place of object": "place", "place of background": "background_place"}
    names = [name for name in ("s", "e") if name in train]
    return _asked(bench, train, held, names, asked, "episode_of_place")


def _asked(
    bench: Bench,
    train: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    inputs: Sequence[str],
    asked: Mapping[str, str],
    owner: str,
) -> list[Score]:
    scores = []
    for title, target in asked.items():
        sides = (
            Transitions({name: side[name] for name in inputs}, side[target], side[owner]) for side in (train, held)
        )
        both = joined(*sides)
        if float(both.y.std(0).max()) < 1e-6:
            raise DilaError(f"{title!r} is constant in {bench.data}; record the data with --moving-background")
        better = "higher" if "background" not in title else "lower"
        told = {name: both.ask(name, seed=bench.settings.seed) for name in inputs}
        scores += [score_r2(f"r2/{title}/{name}", its, better) for name, its in told.items()]
    return scores


def _twins(bench: Bench) -> list[Score]:
    """Compare z of the same object and transform in front of a moving and of a still background."""
    path = str(bench.settings.still)
    twins = {episode.id: episode for episode in open_corpus(path).episodes}
    if missing := [e.id for e in bench.held_frames if e.id not in twins]:
        raise DilaError(
            f"--still: {path} lacks {missing[0]}; record it with the seed and number of episodes of {bench.data}"
        )
    world = bench.world
    moving = Clips(bench.held, world.frames, world.stride, hop=world.frames)
    still = Clips([twins[e.id] for e in bench.held], world.frames, world.stride, hop=world.frames)
    z, z_still, episodes = [], [], []
    for i in spread(len(moving), bench.settings.clips):
        one, other = moving[i], still[i]
        if not torch.allclose(one.columns["state"], other.columns["state"], atol=1e-5):
            raise DilaError(
                f"--still: the transforms of {path} differ from those of {bench.data}; record it with the same seed "
                "and kind"
            )
        with world.running():
            for side, e in ((z, one.frames[None]), (z_still, world.encoder.encode(other.frames[None]))):
                side.append(world.model.infer(e.to(bench.device)).float().cpu()[0])
        episodes.append(int(one.episode))
    a, b, episode = torch.stack(z), torch.stack(z_still), torch.tensor(episodes)
    change = (a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-12)
    return [
        score_rows("twins/z_cosine", F.cosine_similarity(a, b, dim=-1), episode, by_step=False),
        score_rows("twins/z_relative_change", change, episode, "lower", by_step=False),
    ]


def _draw(bench: Bench, scores: Sequence[Score]) -> dict[str, str]:
    groups: dict[str, dict[str, Point]] = {}
    for score in scores:
        if score.name.startswith("r2/"):
            _, title, part = score.name.split("/")
            groups.setdefault(title, {})[part] = Point(score.value, score.low, score.high)
    title = "The action, and the independent background"
    path: Path = draw_bars(bench.out / "sceptic.png", groups, "held-out R²", title, floor=FLOOR)
    return {path.name: "Per transition: the action and the background's motion. Per frame: the positions of both."}
