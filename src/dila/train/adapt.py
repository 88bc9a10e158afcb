"""Adapt a model to real actions: the third training stage of the paper, with its initialisation.

1. The action encoder is fitted by regression to the latent actions that the model infers on a few trajectories (100 in
   VP2's protocol). It is fitted on standardised actions, and the standardisation is then folded into its first layer.
2. FDM and action encoder learn to predict structure (`dila.train.layout`, cheap).
3. The whole model is trained under `ActionConditioned`.

The inverse map, z to action, is a ridge regression on the same trajectories.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from dila.configs import from_json, to_json
from dila.data import Clips, Corpus, digest, load_clips, split_episodes
from dila.errors import DilaError
from dila.files import alone, at_home, write_json
from dila.imagine.label import hash_world
from dila.imagine.world import World
from dila.interop.actions import ACTIONS, ActionSpace, LatentToAction, last_of, load_actions, names_of, r_squared
from dila.interop.models import AnyModel, build, kind_of
from dila.interop.pretrained import Pretrained, load_pretrained, save_pretrained
from dila.interop.seen import carried_note
from dila.model.dila import DiLA
from dila.nn.real_actions import action_encoder, mean_and_std, read_raw
from dila.shapes import Actions, Float, LatentActions, Tensor
from dila.train.begin import differences
from dila.train.folder import RUN
from dila.train.layout import fit_layout, layout_error, read_structure
from dila.train.loop import train
from dila.train.material import default_cache, flat_actions, open_data
from dila.train.objectives import ActionConditioned, Terms, Weights
from dila.train.published import Published
from dila.train.run import ClipSettings, Optimiser, Precision, Run, Stage
from dila.vision import FeatureCache

START, TRAINING, MODEL = "start", "run", "model"
"""Subfolders of an adaptation: the model with its fitted action encoder, the training run, and the result."""
SETTINGS = "adapt.json"
"""File in the same folder with the settings, which later calls are checked against."""
HELD = 0.2
"""Share of the trajectories held out to score the regression."""


@dataclass(frozen=True)
class Adaptation:
    """How to adapt a model to real actions.

    Args:
        trajectories: number of trajectories that the action encoder is fitted on.
        fit_steps: full-batch steps of that regression.
        fit_lr: learning rate of that regression.
        layout_steps: steps that train only FDM and action encoder, in structure space; see `dila.train.layout`.
        layout_lr: peak learning rate of these steps.
        steps: steps of the third stage, `ActionConditioned`; with 0, backbone and decoder are not changed.
        frames: frames per clip; None uses the length that the model was trained on.
        context: number of true frames before the first imagined one.
        terms: terms of the loss.
        optimiser: optimiser of the third stage.
        batch: clips per step.
        precision: precision of the third stage.
        relative: components of the state to subtract from actions that are positions.
        held_out: share of the episodes held out.
        seed: random seed.
    """

    trajectories: int = 100
    fit_steps: int = 1500
    fit_lr: float = 3e-3
    layout_steps: int = 500
    layout_lr: float = 1e-3
    steps: int = 1000
    frames: int | None = None
    context: int = 2
    terms: Terms = field(default_factory=lambda: Terms(Weights(structure=1.0), motion=2.0, detach_structure=True))
    optimiser: Optimiser = field(
        default_factory=lambda: Optimiser(3e-4, weight_decay=1e-4, warmup=20, schedule="cosine", floor=0.05, clip=1.0)
    )
    batch: int = 16
    precision: Precision = "bf16"
    relative: tuple[str, ...] = ()
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self):
        if self.trajectories < 2 or self.fit_steps < 1 or min(self.steps, self.layout_steps) < 0:
            raise DilaError(
                f"trajectories = {self.trajectories} must be at least 2, fit_steps = {self.fit_steps} at least 1, "
                f"layout_steps = {self.layout_steps} and steps = {self.steps} at least 0"
            )
        if not (0 < self.fit_lr < math.inf and 0 < self.layout_lr < math.inf):
            raise DilaError(f"fit_lr = {self.fit_lr} and layout_lr = {self.layout_lr} must be above 0 and finite")


class Adapted(NamedTuple):
    """Folder of the adapted model, and its action space with the held-out scores of both maps."""

    folder: Path
    space: ActionSpace


class Pairs(NamedTuple):
    """Transitions with their real and latent actions and their episode number, ordered by episode."""

    a: Float[Tensor, "N nDa"]
    z: Float[Tensor, "N Dz"]
    episode: Tensor


def adapt(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    how: Adaptation | None = None,
    *,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Adapted:
    """Adapt a trained model to the true actions of a data set.

    If interrupted, the same call resumes; finished parts are not repeated.

    Args:
        model: any model that `load_pretrained` accepts.
        data: recordings with true actions.
        out: output folder; the adapted model is ``out/model``.
        how: settings.
        cache_dir: folder of cached features.
        device: auto, cpu, cuda or mps; the third stage runs on the device that accelerate chooses.
        progress: show progress bars.

    Raises:
        DilaError: the data has no actions; steps or layout_steps are set for a model that is not a DiLA; ``out`` has a
            different adaptation; or as `load_pretrained` and `train`.
    """
    how, out = how or Adaptation(), at_home(out)
    pretrained = load_pretrained(model, device=device)
    if not isinstance(pretrained.model, DiLA) and (how.steps or how.layout_steps):
        kind = kind_of(pretrained.model.config)
        raise DilaError(
            f"{model} is of kind {kind}, of which only the action encoder can be fitted: set steps, layout_steps to 0"
        )
    run = _run(pretrained, how, out)
    (corpus,) = open_data(run, data).values()
    with alone(out):
        _settle(out, pretrained, corpus, how)
        if (out / MODEL / ACTIONS).is_file():
            return Adapted(out / MODEL, load_actions(out / MODEL)[0])
        cache = FeatureCache(pretrained.encoder, Path(cache_dir or default_cache()), progress=progress)
        pairs, repeats = collect(pretrained, corpus, cache, how, progress)
        encoder = fit_encoder(pairs, pretrained.model.config.action_dim, how)
        inverse, from_latent_r2 = LatentToAction.fit(pairs.z, pairs.a, pairs.episode)
        started = pretrained._replace(model=with_encoder(pretrained.model, encoder))
        where = next(started.model.parameters()).device
        to_latent_r2 = score_encoder(started.model.encode_actions, Pairs(*(part.to(where) for part in pairs)))
        begun = (out / TRAINING / RUN).is_file()
        if isinstance(started.model, DiLA) and not begun:
            _move_by_actions(started.model, corpus, cache, run, how, progress)
        last = model
        if how.steps:
            if not begun:
                save_pretrained(out / START, started, carried_note(model))
            last = train(run, data, out / TRAINING, cache_dir=cache_dir, progress=progress)
            started = pretrained._replace(model=load_pretrained(last, device=device).model)
        width = pairs.a.shape[1] // repeats
        adapted = started.model
        error = structure_error(adapted, corpus, cache, run.clips, how.context) if isinstance(adapted, DiLA) else None
        space = replace(_space(corpus, pairs, width, how, to_latent_r2, from_latent_r2), structure_error=error)
        notes = {"adapted_from": os.path.basename(str(model)), "steps": how.steps, **carried_note(last)}
        save_pretrained(out / MODEL, started, notes, actions=(space, inverse))
        return Adapted(out / MODEL, space)


def _settle(out: Path, pretrained: Pretrained, corpus: Corpus, how: Adaptation) -> None:
    """Write ``adapt.json``, or check that existing results were made from the same model, data and settings.

    Raises:
        DilaError: they were not; the differences are named.
    """
    path = out / SETTINGS
    described = {"model": hash_world(World(*pretrained)), "data": digest(corpus, ("action",))} | to_json(how)
    begun = any((out / part).exists() for part in (START, TRAINING, MODEL))
    if begun and (other := list(differences(_stored(path), described))):
        raise DilaError(f"{out} has an adaptation with {'; '.join(other)}; use the same settings, or another folder")
    write_json(path, described)


def _stored(path: Path) -> dict[str, Any]:
    """Read ``adapt.json``, with defaults for fields added since it was written."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        made_of = {name: stored.pop(name) for name in ("model", "data")}
        return made_of | to_json(from_json(Adaptation, stored, str(path)))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DilaError(
            f"{path} is missing or damaged ({error}), so the adaptation cannot be resumed; choose another folder"
        ) from error


def _move_by_actions(
    model: DiLA, corpus: Corpus, cache: FeatureCache, run: Run, how: Adaptation, progress: bool
) -> None:
    """Train FDM and action encoder with `fit_layout` on all training episodes."""
    if not how.layout_steps:
        return
    training, _ = split_episodes(corpus, how.held_out)
    clips = Clips(cache.episodes(training), run.clips.frames, run.clips.stride, hop=run.clips.frames)
    s, a = read_structure(model, clips, how.precision)
    if not len(s):
        raise DilaError(
            f"{corpus.root} has no clip of {run.clips.frames} frames with all actions known: lower frames, fix "
            "the column action where it is NaN or infinite, or set layout_steps to 0"
        )
    optimiser = replace(how.optimiser, lr=how.layout_lr)
    fit_layout(
        model, s, a, optimiser, how.layout_steps, 2 * how.batch, how.precision, how.seed, context=how.context,
        progress=progress,
    )  # fmt: skip


@torch.no_grad()
def structure_error(
    model: DiLA, corpus: Corpus, cache: FeatureCache, clips: ClipSettings, context: int
) -> float | None:
    """`layout_error` on held-out episodes, 1 for no motion; None if they have no clip with known actions."""
    _, held = split_episodes(corpus, clips.held_out)
    known = [episode for episode in cache.episodes(held) if "action" in episode.columns]
    try:
        cut = Clips(known, clips.frames, clips.stride, hop=clips.frames)
    except DilaError:
        return None
    s, a = read_structure(model, cut)
    return layout_error(model, s, a, context) if len(s) else None


@torch.no_grad()
def collect(
    pretrained: Pretrained, corpus: Corpus, cache: FeatureCache, how: Adaptation, progress: bool = False
) -> tuple[Pairs, int]:
    """Collect real and inferred latent actions of ``how.trajectories`` trajectories.

    Returns:
        The pairs, and the number of raw actions per transition.

    Raises:
        DilaError: fewer than 2 trajectories have actions that are finite.
    """
    training, _ = split_episodes(corpus, how.held_out)
    with_actions = [episode for episode in training if "action" in episode.columns][: how.trajectories]
    if len(with_actions) < 2:
        raise DilaError(f"{corpus.root} has {len(with_actions)} trajectories with true actions; 2 or more are needed")
    frames = how.frames or pretrained.frames
    clips = Clips(with_actions, frames, pretrained.stride)  # raises before anything is encoded
    if "action" in clips.dropped:
        raise DilaError(
            f"{corpus.root}: actions do not fit the model's stride, {clips.dropped['action']}; use other data"
        )
    repeats = clips.column_shapes["action"][1]
    clips = Clips(cache.episodes(with_actions), frames, pretrained.stride, hop=(frames - 1) * repeats)
    device = next(pretrained.model.parameters()).device
    parts = []
    batch = 16
    every = math.ceil(len(clips) / batch)
    for clip in tqdm(load_clips(clips, batch), desc="actions", total=every, unit="batch", disable=not progress):
        z = pretrained.model.infer(clip.frames.to(device)).float().cpu()
        owner = torch.as_tensor(clip.episode)[:, None].expand(z.shape[:2])
        parts.append((flat_actions(clip).flatten(0, 1), z.flatten(0, 1), owner.flatten()))
    a, z, episode = (torch.cat(column) for column in zip(*parts, strict=True))
    known = a.isfinite().all(1)
    if (left := len(episode[known].unique())) < 2:
        of = ", ".join(clips.episodes[number].id for number in episode[~known].unique()[:3])
        raise DilaError(
            f"{corpus.root} has {left} trajectories with finite actions, but 2 or more are needed; "
            + (f"fix the column action of {of}, where it is NaN or infinite" if of else "give more, or longer ones")
        )
    return Pairs(a[known], z[known], episode[known]), repeats


def fit_encoder(pairs: Pairs, action_dim: int, how: Adaptation) -> nn.Sequential:
    """Fit an action encoder, for actions in their own units, to z; a share `HELD` of the trajectories is left out."""
    fitted = ~last_of(pairs.episode, HELD)
    mean, std = mean_and_std(pairs.a[fitted])
    scale = pairs.z.std(0).mean().clamp_min(1e-9)
    x, z = (pairs.a[fitted] - mean) / std, pairs.z[fitted] / scale
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(how.seed)
        encoder = action_encoder(x.shape[1], action_dim)
    first, last = encoder[0], encoder[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():  # a component that is constant in the data must have no effect
        first.weight[:, (x == 0).all(0)] = 0
    adam = torch.optim.AdamW(encoder.parameters(), lr=how.fit_lr, weight_decay=1e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, how.fit_steps)
    for _ in range(how.fit_steps):
        loss = F.mse_loss(encoder(x), z)
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
    read_raw(encoder, mean, std)
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.mul_(scale)
    return encoder


@torch.no_grad()
def score_encoder(encode: Callable[[Actions], LatentActions], pairs: Pairs) -> float:
    """R² of z predicted from actions, on the trajectories that `fit_encoder` left out."""
    held = last_of(pairs.episode, HELD)
    return r_squared(encode(pairs.a[None, held])[0], pairs.z[held])


def with_encoder(model: AnyModel, encoder: nn.Sequential) -> AnyModel:
    """Return a copy of the model, on the same device, with this action encoder."""
    first: Any = encoder[0]
    made = build(replace(model.config, real_action_dim=first.in_features)).to(next(model.parameters()).device)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("action_encoder.")}
    tensors |= {f"action_encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    made.load_state_dict(tensors)
    return made.eval()


def _run(pretrained: Pretrained, how: Adaptation, out: Path) -> Run:
    dila = isinstance(pretrained.model, DiLA)
    objective = ActionConditioned(how.terms, how.context) if dila else Published()  # baselines are not trained here
    return Run(
        name="adapt",
        model=replace(pretrained.model.config, real_action_dim=None),  # discards an existing action encoder
        encoder=pretrained.encoder.config(),
        stages=(Stage(objective, steps=max(1, how.steps)),),
        clips=ClipSettings(
            how.frames or pretrained.frames, pretrained.stride, held_out=how.held_out, relative=how.relative
        ),
        optimiser=how.optimiser,
        batch=how.batch,
        precision=how.precision,
        seed=how.seed,
        evaluate_every=max(1, how.steps),
        start=str(out / START),
        trackers=(),
    )


def _space(
    corpus: Corpus, pairs: Pairs, width: int, how: Adaptation, to_latent_r2: float, from_latent_r2: float
) -> ActionSpace:
    raw = pairs.a.reshape(-1, width)

    def told(numbers: Tensor) -> tuple[float, ...]:
        return tuple(float(f"{x:.6g}") for x in numbers.tolist())

    low, high = raw.quantile(torch.tensor([0.005, 0.995]), dim=0)
    return ActionSpace(
        names_of(corpus.names.get("action"), width),
        pairs.a.shape[1] // width,
        how.relative,
        told(raw.mean(0)),
        told(raw.std(0)),
        told(raw.abs().quantile(0.99, dim=0)),
        None if math.isnan(to_latent_r2) else to_latent_r2,
        None if math.isnan(from_latent_r2) else from_latent_r2,
        low=told(low),
        high=told(high),
    )
