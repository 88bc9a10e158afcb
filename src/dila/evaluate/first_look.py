"""Is this model any good? Two metrics with their baselines, and pictures.

Rollouts: feature error of predicted frames, given one context frame and the clip's own latent actions, over the error
of repeating the context frame (1 is no better than that). Probe: R² of a linear probe from z to the true change of a
known quantity, on held-out episodes, against shuffled labels and raw feature differences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from dila.analysis.probe import ProbeResult, chance
from dila.data import Clips, Corpus, split_episodes
from dila.evaluate.bench import sample, spread
from dila.evaluate.cycle import one_step
from dila.evaluate.factors import Factor
from dila.evaluate.probing import Read, Transitions, gather, infer, inputs_of, joined
from dila.imagine.pictures import fit_colours, paint, write_clip, write_sheet
from dila.imagine.rollout import rollout
from dila.imagine.windows import infer_long
from dila.imagine.world import World
from dila.metrics.features import one_step_ratio, pooled_one_step_ratio, pooled_rollout_ratio, rollout_ratio
from dila.model.dila import DiLA
from dila.protocols import Episode
from dila.shapes import Features, Tensor, UInt8
from dila.vision import FeatureCache, FrozenEncoder

PART = 8
"""Number of clips per forward pass."""

PAIRS = 3000
"""Maximum number of training transitions that the probe is fitted on."""


@dataclass(frozen=True)
class Rollouts:
    """Feature errors on held-out clips, as ratios to the error of copying a frame."""

    pooled: float
    """Of rollouts from one frame, over repeating that frame, over all horizons together."""
    by_horizon: tuple[float, ...]
    one_step: float
    """Of teacher-forced predictions, over repeating the previous frame, over all transitions of a clip together."""
    first_step: float
    """The same for the first transition only, which is also comparable between models with different contexts."""
    clips: int


@dataclass(frozen=True)
class Probes:
    """Linear probes for the change of a quantity over a transition, with their controls."""

    target: str
    z: ProbeResult
    shuffled: ProbeResult
    features: ProbeResult
    """From raw feature differences: what can be predicted without any learning."""

    @property
    def scores(self) -> dict[str, float]:
        """R² of each, under the names used in reports and model cards."""
        return {
            "probe_r2": self.z.r2,
            "probe_r2_chance": self.shuffled.r2,
            "probe_r2_feature_differences": self.features.r2,
        }

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {"target": self.target} | {name: getattr(self, name).to_json() for name in ("z", "shuffled", "features")}


def split_features(
    world: World, corpus: Corpus, held_out: float, cache_dir: str | Path
) -> tuple[Sequence[Episode], Sequence[Episode]]:
    """Return training and held-out episodes of a corpus, as features."""
    cache = FeatureCache(cast(FrozenEncoder, world.encoder), cache_dir, progress=False)
    train, held = split_episodes(corpus, held_out)
    return cache.episodes(train), cache.episodes(held)


@torch.no_grad()
def measure_rollouts(world: World, episodes: Sequence[Episode], horizon: int = 8, clips: int = 64) -> Rollouts:
    """Measure rollout errors of clips spread over ``episodes`` of features (see `dila.vision.FeatureCache`).

    Raises:
        DilaError: no episode is long enough.
    """
    true, imagined, stepped = [], [], []
    for batch in sample(Clips(episodes, horizon + 1, world.stride), clips, PART):
        e = batch.frames.to(world.device)
        with world.running():
            z = infer_long(world.model, e, world.frames)
            imagined.append(rollout(world.model, e[:, :1], z).float())
            stepped.append(one_step(world.model, e, z).float())
        true.append(e)
    e, e_hat, once = torch.cat(true), torch.cat(imagined), torch.cat(stepped)
    return Rollouts(
        float(pooled_rollout_ratio(e_hat, e)),
        tuple(round(x, 4) for x in rollout_ratio(e_hat, e).tolist()),
        float(pooled_one_step_ratio(once, e)),
        float(one_step_ratio(once, e)[0]),
        len(e),
    )


def measure_probe(
    world: World,
    train: Sequence[Episode],
    held: Sequence[Episode],
    factors: Sequence[Factor],
    target: str,
) -> Probes:
    """Probe z for the change of known factors; fitted on ``train``, scored on ``held``.

    Transitions with unknown values (NaN) are excluded.

    Raises:
        DilaError: there is no such column, none of its values is known, or as in `probe`.
    """
    both = _both(world, train, held, factors, inputs_of(world))
    return Probes(target, both.ask("z"), both.ask("z", chance), both.ask("features"))


def measure_z_probe(
    world: World, train: Sequence[Episode], held: Sequence[Episode], factors: Sequence[Factor]
) -> ProbeResult:
    """Probe z only: `measure_probe` without its controls, which are the same for all models."""
    return _both(world, train, held, factors, {"z": partial(infer, world, world.model)}).ask("z")


def draw_rollouts(world: World, frames: Sequence[Episode], out: Path, horizon: int = 8, clips: int = 3) -> list[Path]:
    """Write contact sheets of true and predicted frames; ``frames`` are episodes of frames, not features."""
    written = []
    for number, o in enumerate(_some_clips(world, frames, horizon + 1, clips)):
        imagined = torch.cat([world.features(o[:1]), world.rollout(o)])
        path = out / f"rollout_{number}.png"
        write_sheet(path, {"true": o, "given, then imagined": world.draw(imagined, o)}, columns=horizon + 1)
        written.append(path)
    return written


def draw_transfer(world: World, frames: Sequence[Episode], out: Path, horizon: int = 12) -> Path:
    """Write a video of a clip and of its latent actions in another scene."""
    source, target = _some_clips(world, frames, horizon + 1, 2)
    moved = world.draw(world.transfer(source, target).e, target)
    rows = {"source": source[1:], "target": target[:1].expand(horizon, -1, -1, -1), "its actions here": moved}
    path = out / "transfer.mp4"
    write_clip(path, rows, 1 / world.stride)
    return path


def draw_rebinding(world: World, frames: Sequence[Episode], out: Path, horizon: int = 12) -> Path:
    """Write a video of the structure of one clip with the content of another."""
    structure, content = _some_clips(world, frames, horizon + 1, 2)
    bound = world.draw(world.rebind(structure, content[:1]).e, structure)
    rows = {"structure from": structure[1:], "content from": content[:1].expand(horizon, -1, -1, -1), "rebound": bound}
    path = out / "rebinding.mp4"
    write_clip(path, rows, 1 / world.stride)
    return path


@torch.no_grad()
def draw_structure(world: World, frames: Sequence[Episode], out: Path, horizon: int = 8) -> Path:
    """Write a contact sheet of frames, and of the first three principal components of s and e as RGB."""
    (o,) = _some_clips(world, frames, horizon, 1)
    e: Features = world.features(o)[None]
    with world.running():
        s = cast(DiLA, world.model).read(e)[0].float()
    size = (int(o.shape[-2]), int(o.shape[-1]))
    rows = {
        "frames": o,
        "structure s": paint(fit_colours(s), s, size),
        "features e": paint(fit_colours(e[0]), e[0], size),
    }
    path = out / "structure.png"
    write_sheet(path, rows, columns=horizon)
    return path


def to_json(rollouts: Rollouts, probes: Probes) -> dict[str, Any]:
    """Return the numbers under the names used in the report."""
    return {
        "rollout_error_vs_copy_last": rollouts.pooled,
        "rollout": asdict(rollouts),
        **probes.scores,
        "probe": probes.to_json(),
    }


def _both(
    world: World,
    train: Sequence[Episode],
    held: Sequence[Episode],
    factors: Sequence[Factor],
    inputs: Mapping[str, Read],
) -> Transitions:
    """Transitions of training and held-out episodes, joined."""
    return joined(*(gather(world, part, factors, PAIRS, inputs) for part in (train, held)))


def _some_clips(world: World, frames: Sequence[Episode], length: int, count: int) -> list[UInt8[Tensor, "T 3 Y X"]]:
    cut = Clips(frames, length, world.stride)
    return [cut[i].frames for i in spread(len(cut), count)]
