"""Objectives of the training stages (paper equation 6), as dataclasses that recipes contain.

The names of the weights are the names of the losses and of the logged metrics. Shapes are those of `dila.shapes`.
"""

from dataclasses import asdict, dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from dila.imagine.rollout import steps
from dila.model.dila import DiLA
from dila.model.losses import (
    action_loss,
    diversity_loss,
    feature_loss,
    motion_weight,
    moving_transitions,
    norm_loss,
    structure_loss,
    symmetry_loss,
)
from dila.nn.bottleneck import Bottlenecked, perplexity
from dila.shapes import Actions, Features, Float, LatentActions, Structure, Tensor
from dila.train.ranges import check_weighed


@dataclass(frozen=True)
class Weights:
    """Weight of each term; the defaults are the released ones. Terms with weight 0 are not computed."""

    feature: float = 2.0
    structure: float = 0.03
    action: float = 0.03
    diversity: float = 0.03
    norm: float = 0.001
    symmetry: float = 0.001
    kl: float = 1e-4


@dataclass(frozen=True)
class Terms:
    """How the terms are computed; the defaults are the paper's. See docs/deviations.md for what was measured.

    Args:
        weights: weights of the terms.
        motion: strength of the weight on tokens that changed since the first frame; 0 weights all equally.
        detach_structure: stop the gradient of the structure loss through its target.
        moving: threshold of the symmetry loss, relative to the batch's mean change of structure.
        as_released: compute as the released code does: backward actions in forward order, a fixed threshold of 0.01,
            symmetry through the IDM only, action-conditioned targets re-encoded without their first frame.
    """

    weights: Weights = field(default_factory=Weights)
    motion: float = 0.0
    detach_structure: bool = False
    moving: float = 0.1
    as_released: bool = False


class Batch(NamedTuple):
    """Batch of a training step, or a part of it: features, and real actions if the stage needs them."""

    e: Features
    a: Actions | None = None
    place: Float[Tensor, " B"] | None = None  # position of each clip in the whole batch, 0 to 1; None if not split
    done: Float[Tensor, ""] | None = None  # share of the run's steps already done, 0 to 1; None outside training


class Outcome(NamedTuple):
    """Total loss, the unweighted terms, and tensors to monitor; z is taken before the bottleneck."""

    total: Float[Tensor, ""]
    losses: dict[str, Float[Tensor, ""]]
    s: Structure | None  # None for a model without structure
    z: LatentActions
    perplexity: Float[Tensor, ""] | None = None
    """Perplexity of the codes, for a model with a codebook."""


@runtime_checkable
class Objective(Protocol):
    """Loss of a stage. It runs inside `dila.train.learner.Learner`, the module that DDP and FSDP wrap."""

    def __call__(self, model: DiLA, batch: Batch) -> Outcome:
        """Compute the loss of a batch."""
        ...


class _Seen(NamedTuple):
    """Inputs of the terms. ``z`` drives the prediction; terms compare ``z_seen``, before a bottleneck's noise."""

    s: Structure
    z: Bottlenecked
    z_seen: LatentActions
    ds_hat: Structure
    s_hat: Structure
    e_hat: Features
    target: Features
    origin: Features


@dataclass(frozen=True)
class OneStep:
    """Stage 1: teacher forcing, every frame is predicted from the true frames before it.

    Args:
        terms: terms of the loss.
        shown: share of a step's clips whose decoder sees the true next structure instead of the predicted one.
            0 in the paper; more teaches s to encode motion before z can, so that short runs learn z earlier.
    """

    terms: Terms = field(default_factory=Terms)
    shown: float = 0.0

    def __call__(self, model: DiLA, batch: Batch) -> Outcome:
        """Teacher-forced prediction of frames 1..K."""
        e, seen = batch.e, model.observe(batch.e)
        z_seen = model.idm(seen.s[:, 1:] - seen.s[:, :-1])
        z = model.bottleneck(z_seen)
        ds_hat, _ = model.fdm(seen.s[:, :-1], z.z)
        s_hat = seen.s[:, :-1] + ds_hat
        place = (torch.arange(len(e), device=e.device) + 0.5) / len(e) if batch.place is None else batch.place
        drawn = torch.where((place < self.shown)[:, None, None, None, None], seen.s[:, 1:], s_hat)
        e_hat, _ = model.decoder(drawn, seen.c_mem[:, :-1], model.decoder.origin(e[:, 0]))
        return _outcome(model, _Seen(seen.s, z, z_seen, ds_hat, s_hat, e_hat, e[:, 1:], e[:, :1]), self.terms)


@dataclass(frozen=True)
class Rollout:
    """Stage 2: rollout from the first frame, with gradients through it; z is inferred from the whole clip."""

    terms: Terms = field(default_factory=Terms)

    def __call__(self, model: DiLA, batch: Batch) -> Outcome:
        """Autoregressive prediction of frames 1..K."""
        s = model.read(batch.e)
        z_seen = model.idm(s[:, 1:] - s[:, :-1])
        z = model.bottleneck(z_seen)
        ds_hat, _ = model.fdm(s[:, :-1], z.z)
        s_hat, e_hat = _imagine(model, batch.e[:, :1], z.z)
        return _outcome(model, _Seen(s, z, z_seen, ds_hat, s_hat, e_hat, batch.e[:, 1:], batch.e[:, :1]), self.terms)


@dataclass(frozen=True)
class ActionConditioned:
    """Stage 3: rollout under real actions after ``context`` true frames; the action encoder replaces the IDM."""

    terms: Terms = field(default_factory=Terms)
    context: int = 2

    def __call__(self, model: DiLA, batch: Batch) -> Outcome:
        """Autoregressive prediction of the frames after the context under real actions ``B K Da``."""
        assert batch.a is not None, "the action-conditioned stage needs actions in its batches"
        z_all = model.encode_actions(batch.a)
        first = self.context - 1
        z = Bottlenecked(z_all[:, first:], z_all.new_zeros(()), None)
        s_hat, e_hat = _imagine(model, batch.e[:, : self.context], z.z, z_all[:, :first])
        s = model.read(batch.e[:, first:]) if self.terms.as_released else model.read(batch.e)[:, first:]
        z_seen = model.idm(s[:, 1:] - s[:, :-1])
        ds_hat, _ = model.fdm(s[:, :-1], z.z)
        target, origin = batch.e[:, self.context :], batch.e[:, first : self.context]
        return _outcome(model, _Seen(s, z, z_seen, ds_hat, s_hat, e_hat, target, origin), self.terms)


def _imagine(
    model: DiLA, context: Features, z: LatentActions, z_context: Float[Tensor, "B C Dz"] | None = None
) -> tuple[Float[Tensor, "B K H W Ds"], Float[Tensor, "B K H W D"]]:
    imagined = [(state.s, e_hat) for state, e_hat in steps(model, model.start(context, z_context), z)]
    s_hat, e_hat = (torch.stack(part, dim=1) for part in zip(*imagined, strict=True))
    return s_hat, e_hat


def _outcome(model: DiLA, seen: _Seen, terms: Terms) -> Outcome:
    """Compute all terms with nonzero weight; the IDM runs once on each distinct input."""
    check_weighed(terms.weights, model.penalty)
    weights = asdict(terms.weights)
    losses = {name: term(model, seen, terms) for name, term in _SINGLE.items() if weights[name]}
    losses |= _inverse_terms(model, seen, terms)
    if model.penalty and weights[model.penalty]:
        losses[model.penalty] = seen.z.penalty
    total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
    used = None if seen.z.codes is None else perplexity(seen.z.codes)
    return Outcome(total, losses, seen.s.detach(), seen.z_seen.detach(), used)


def _feature(model: DiLA, seen: _Seen, terms: Terms) -> Tensor:
    weight = motion_weight(torch.cat([seen.origin, seen.target], dim=1), terms.motion) if terms.motion else None
    return feature_loss(seen.e_hat, seen.target, weight)


def _structure(model: DiLA, seen: _Seen, terms: Terms) -> Tensor:
    ds = seen.s[:, 1:] - seen.s[:, :-1]
    return structure_loss(seen.ds_hat, ds.detach() if terms.detach_structure else ds)


_SINGLE = {
    "feature": _feature,
    "structure": _structure,
    "diversity": lambda model, seen, terms: diversity_loss(seen.z_seen),
    "norm": lambda model, seen, terms: norm_loss(seen.z.z),
}


def _inverse_terms(model: DiLA, seen: _Seen, terms: Terms) -> dict[str, Tensor]:
    """Compute the two terms that need further IDM outputs, in one batched call."""
    ds = seen.s[:, 1:] - seen.s[:, :-1]
    inputs: dict[str, Tensor] = {}
    if terms.weights.action:
        inputs["predicted"] = seen.s_hat - seen.s[:, :-1]
    if terms.weights.symmetry:
        inputs["backward"] = -ds.detach() if terms.as_released else -ds.detach().flip(1)
        if terms.as_released:
            inputs["forward"] = ds.detach()
    if not inputs:
        return {}
    z = dict(zip(inputs, model.idm(torch.cat(list(inputs.values()))).chunk(len(inputs)), strict=True))
    losses = {}
    if "predicted" in z:
        losses["action"] = action_loss(z["predicted"], seen.z_seen)
    if "backward" in z:
        backward = z["backward"] if terms.as_released else z["backward"].flip(1)
        moving = moving_transitions(ds, 0.01 if terms.as_released else terms.moving, relative=not terms.as_released)
        losses["symmetry"] = symmetry_loss(z.get("forward", seen.z_seen), backward, moving)
    return losses
