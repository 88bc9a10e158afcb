"""Real actions of an adapted model: their description, and the map from latent actions back to them.

Stored beside the files of `dila.interop.pretrained`::

    actions.json                   `ActionSpace`: names, raw actions per transition, statistics, scores
    latent_to_action.safetensors   `LatentToAction`: from z to the actions of a transition

The map from real to latent actions, the action encoder, is part of the model. It takes actions in their own units: its
first layer includes their normalisation.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.files import replacing, write_json
from dila.interop.find import ACTIONS, INVERSE, locate
from dila.nn.real_actions import varying
from dila.shapes import Bool, Float, Int, Tensor
from dila.vision.stored import not_finite

RIDGES = tuple(10.0**power for power in range(-6, 3))
HELD = 0.25
"""Share of the trajectories, the last ones, that are held out to choose the penalty of a map and to score it."""


@dataclass(frozen=True)
class ActionSpace:
    """Description of the real actions that the model was adapted to.

    Args:
        names: components of one raw action.
        repeats: raw actions per transition of the model.
        relative: components of the state that actions are taken relative to, see `dila.data.relative`.
        mean: mean of each component in the data.
        std: standard deviation of each component in the data.
        bound: 99% quantile of the magnitude of each component in the data.
        to_latent_r2: R² of the action encoder after regression, on held-out trajectories; None if their latent actions
            do not vary.
        from_latent_r2: R² of `LatentToAction`, on the held-out trajectories that also chose its penalty; None if their
            actions do not vary.
        structure_error: error of structure rolled out under true actions on held-out episodes, relative to no change;
            None if there are no held-out episodes.
        low: 0.5% quantile of each component in the data; None in files from before 2026-11-28.
        high: 99.5% quantile of each component in the data; None in files from before 2026-11-28.
    """

    names: tuple[str, ...]
    repeats: int
    relative: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bound: tuple[float, ...]
    to_latent_r2: float | None
    from_latent_r2: float | None
    structure_error: float | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def limits(self) -> tuple[Float[Tensor, " Da"], Float[Tensor, " Da"]]:
        """Return the smallest and largest actions of the training data, for `dila.planning.planner.Limits`."""
        bound = torch.tensor(self.bound)
        return (
            -bound if self.low is None else torch.tensor(self.low),
            bound if self.high is None else torch.tensor(self.high),
        )

    def hold(self, a: Float[Tensor, "B K Da"]) -> Float[Tensor, "B K nDa"]:
        """Repeat each raw action for a whole transition, as the action encoder expects."""
        return a.repeat(1, 1, self.repeats)


@dataclass(frozen=True)
class LatentToAction:
    """Linear map from latent actions to the raw actions of a transition, for policies trained on labels.

    Args:
        weight: ``Dz nDa``.
        bias: ``nDa``.
    """

    weight: Float[Tensor, "Dz nDa"]
    bias: Float[Tensor, " nDa"]

    def __call__(self, z: Float[Tensor, "*batch Dz"]) -> Float[Tensor, "*batch nDa"]:
        """Return the raw actions of each transition, concatenated."""
        return z.to(self.weight.dtype) @ self.weight + self.bias

    @classmethod
    def fit(
        cls, z: Float[Tensor, "N Dz"], a: Float[Tensor, "N nDa"], episode: Int[Tensor, " N"]
    ) -> tuple["LatentToAction", float]:
        """Fit by ridge regression in double precision; held-out trajectories choose the penalty. Also return their R².

        Args:
            z: latent actions.
            a: raw actions of their transitions.
            episode: trajectory of each row, at least two different ones.

        Raises:
            DilaError: rows that are not finite, or too few rows or trajectories.
        """
        _check_rows(z, a, episode)
        x, y = z.double(), a.double()
        held = last_of(episode, HELD)
        fits = [_ridge(x[~held], y[~held], penalty) for penalty in RIDGES]
        scores = [r_squared(x[held] @ weight + bias, y[held]) for weight, bias in fits]
        best = scores.index(max(scores))
        weight, bias = _ridge(x, y, RIDGES[best])
        return cls(weight.float(), bias.float()), scores[best]


def last_of(episode: Int[Tensor, " N"], share: float) -> Bool[Tensor, " N"]:
    """Mark the rows of the last ``share`` of the trajectories, which are held out of a fit and used to score it."""
    names = episode.unique()
    return torch.isin(episode, names[-max(1, round(share * len(names))) :])


def r_squared(predicted: Float[Tensor, "N D"], y: Float[Tensor, "N D"]) -> float:
    """1 - squared error / variance, averaged over the components that vary."""
    variance, varies = y.var(0, correction=0), varying(y)
    if not varies.any():
        return float("nan")
    return float(1 - ((predicted - y).square().mean(0)[varies] / variance[varies]).mean())


Actions = tuple[ActionSpace, LatentToAction]
"""What a folder stores about real actions."""


def save_actions(folder: Path, space: ActionSpace, inverse: LatentToAction) -> None:
    """Write both files beside a trained model; the description is written last, so its presence implies both."""
    from safetensors.torch import save_file

    with replacing(folder / INVERSE) as partial:
        save_file({"weight": inverse.weight.contiguous(), "bias": inverse.bias.contiguous()}, partial)
    write_json(folder / ACTIONS, to_json(space))


def known_actions(folder: Path) -> Actions | None:
    """Return `load_actions` of a folder, or None if the model was never adapted."""
    return _read_actions(folder) if (folder / ACTIONS).is_file() else None


def load_actions(model: str | Path) -> Actions:
    """Load what `save_actions` wrote, from any path that `dila.interop.pretrained.load_pretrained` accepts.

    Raises:
        DilaError: no model exists there, it was never adapted, or the files are damaged.
    """
    path = (folder := locate(model)) / ACTIONS
    if not path.is_file():
        raise DilaError(f"{path} is missing, so this model knows no real actions; adapt it with: dila adapt MODEL DATA")
    return _read_actions(folder)


def _read_actions(folder: Path) -> Actions:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / ACTIONS
    try:
        space = from_json(ActionSpace, json.loads(path.read_text(encoding="utf-8")), str(path))
        tensors = load_file(folder / INVERSE)
        if damaged := not_finite(tensors):
            raise ValueError(f"{INVERSE} has NaN or infinite numbers in {', '.join(damaged)}")
        weight, bias = tensors["weight"], tensors["bias"]
        if weight.ndim != 2 or bias.shape != (weight.shape[1],) or len(bias) != len(space.names) * space.repeats:
            raise ValueError(f"{INVERSE} does not fit the {len(space.names)} components of {ACTIONS}")
        return space, LatentToAction(weight, bias)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DilaError(f"the action files in {folder} are damaged ({error}); adapt the model again") from error


def _check_rows(z: Tensor, a: Tensor, episode: Tensor) -> None:
    if len(z) < 2:
        raise DilaError(f"{len(z)} transitions are too few to fit actions; give at least 2, preferably hundreds")
    if wrong := int((~(z.isfinite().all(1) & a.isfinite().all(1))).sum()):
        raise DilaError(f"{wrong} of {len(z)} transitions contain NaN or infinite numbers in z or a; remove them")
    if (count := len(episode.unique())) < 2:
        raise DilaError(f"the transitions come from {count} trajectory, but fitting needs at least 2, one held out")


def _ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weight and bias in the units of x; the penalty applies to standardised inputs."""
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-9)
    scaled = (x - mean) / std
    eye = torch.eye(x.shape[1], dtype=x.dtype) * penalty * len(x)
    weight = torch.linalg.solve(scaled.T @ scaled + eye, scaled.T @ (y - y.mean(0))) / std[:, None]
    return weight, y.mean(0) - mean @ weight


def names_of(names: Sequence[str] | None, width: int) -> tuple[str, ...]:
    """Return the names of the components, or ``a0``, ``a1``, ... if the data has none."""
    return tuple(names) if names and len(names) == width else tuple(f"a{i}" for i in range(width))
