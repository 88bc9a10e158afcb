"""The real actions of an adapted model: what they are, and the way back from latent ones.

Beside the files of `dila.interop.pretrained`::

    actions.json                   `ActionSpace`: names, raw steps of a transition, statistics, scores
    latent_to_action.safetensors   `LatentToAction`: from z to the actions of a transition

The way there, the action encoder, is part of the model, and takes actions in their own units: their normalisation is in
its first layer.
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

RIDGES = tuple(10.0**power for power in range(-6, 3))
HELD = 0.25
"""Share of the trajectories, the last ones, that a map is scored and its penalty chosen on."""


@dataclass(frozen=True)
class ActionSpace:
    """Real actions as the model was adapted to them.

    Args:
        names: of the components of one raw action.
        repeats: raw actions in a transition of the model.
        relative: components of the state that actions are taken relative to, see `dila.data.relative`.
        mean: of each component in the data.
        std: of each component in the data.
        bound: of each component: 99% of the data's actions are no larger.
        to_latent_r2: of the action encoder after regression, on trajectories left out of it; None where their latent
            actions do not vary.
        from_latent_r2: of `LatentToAction`, on trajectories left out of it, which chose its penalty as well; None where
            their actions do not vary.
        structure_error: of structure rolled out under true actions on held-out episodes, where 1 is standing still;
            None where there are none.
        low: of each component: 0.5% of the data's actions are less; None in files from before 2026-11-28.
        high: of each component: 0.5% of the data's actions are greater.
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
        """Least and greatest of what the model has seen, for `dila.planning.planner.Limits`."""
        bound = torch.tensor(self.bound)
        return (
            -bound if self.low is None else torch.tensor(self.low),
            bound if self.high is None else torch.tensor(self.high),
        )

    def hold(self, a: Float[Tensor, "B K Da"]) -> Float[Tensor, "B K nDa"]:
        """Raw actions held for a transition, as the action encoder takes them."""
        return a.repeat(1, 1, self.repeats)


@dataclass(frozen=True)
class LatentToAction:
    """Linear map from latent actions to the raw actions of a transition: for using labels in a policy.

    Args:
        weight: ``Dz nDa``.
        bias: ``nDa``.
    """

    weight: Float[Tensor, "Dz nDa"]
    bias: Float[Tensor, " nDa"]

    def __call__(self, z: Float[Tensor, "*batch Dz"]) -> Float[Tensor, "*batch nDa"]:
        """Actions, all raw steps of a transition side by side."""
        return z.to(self.weight.dtype) @ self.weight + self.bias

    @classmethod
    def fit(
        cls, z: Float[Tensor, "N Dz"], a: Float[Tensor, "N nDa"], episode: Int[Tensor, " N"]
    ) -> tuple["LatentToAction", float]:
        """Ridge regression in double precision, its penalty chosen on the last trajectories; and its R² there.

        Args:
            z: latent actions.
            a: the raw actions of their transitions.
            episode: the trajectory of each row, two or more in all.

        Raises:
            DilaError: rows that are not finite, or too few of them or of trajectories.
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
    """The rows of the last trajectories, so large a share of them all, which a fit leaves out and is scored on."""
    names = episode.unique()
    return torch.isin(episode, names[-max(1, round(share * len(names))) :])


def r_squared(predicted: Float[Tensor, "N D"], y: Float[Tensor, "N D"]) -> float:
    """1 - squared error over squared distance from the mean, all components pooled in units of their variance."""
    variance, varies = y.var(0, correction=0), varying(y)
    if not varies.any():
        return float("nan")
    return float(1 - ((predicted - y).square().mean(0)[varies] / variance[varies]).mean())


Actions = tuple[ActionSpace, LatentToAction]
"""What a folder says of real actions."""


def save_actions(folder: Path, space: ActionSpace, inverse: LatentToAction) -> None:
    """Write both files beside a trained model, the description last: it stands for both."""
    from safetensors.torch import save_file

    with replacing(folder / INVERSE) as partial:
        save_file({"weight": inverse.weight.contiguous(), "bias": inverse.bias.contiguous()}, partial)
    write_json(folder / ACTIONS, to_json(space))


def known_actions(folder: Path) -> Actions | None:
    """`load_actions`; None where the model was never adapted."""
    return _read_actions(folder) if (folder / ACTIONS).is_file() else None


def load_actions(model: str | Path) -> Actions:
    """What `save_actions` wrote, wherever `dila.interop.pretrained.load_pretrained` finds the model.

    Raises:
        DilaError: there is no such model, it was never adapted, or the files are damaged.
    """
    path = (folder := locate(model)) / ACTIONS
    if not path.is_file():
        raise DilaError(f"{path} is missing: this model knows no real actions; make them known: dila adapt MODEL DATA")
    return _read_actions(folder)


def _read_actions(folder: Path) -> Actions:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / ACTIONS
    try:
        space = from_json(ActionSpace, json.loads(path.read_text(encoding="utf-8")), str(path))
        tensors = load_file(folder / INVERSE)
        return space, LatentToAction(tensors["weight"], tensors["bias"])
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DilaError(f"{folder} holds damaged actions ({error}); adapt the model again") from error


def _check_rows(z: Tensor, a: Tensor, episode: Tensor) -> None:
    if len(z) < 2:
        raise DilaError(f"{len(z)} transitions are too few to fit actions to; give 2 or more, and better hundreds")
    if wrong := int((~(z.isfinite().all(1) & a.isfinite().all(1))).sum()):
        raise DilaError(f"{wrong} of {len(z)} transitions have NaN or infinite numbers in z or a; leave them out")
    if (count := len(episode.unique())) < 2:
        raise DilaError(f"the transitions are of {count} trajectory, which leaves none to score on; give 2 or more")


def _ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weight and bias in the units of x; the penalty is on standardised inputs."""
    mean, std = x.mean(0), x.std(0, correction=0).clamp_min(1e-9)
    scaled = (x - mean) / std
    eye = torch.eye(x.shape[1], dtype=x.dtype) * penalty * len(x)
    weight = torch.linalg.solve(scaled.T @ scaled + eye, scaled.T @ (y - y.mean(0))) / std[:, None]
    return weight, y.mean(0) - mean @ weight


def names_of(names: Sequence[str] | None, width: int) -> tuple[str, ...]:
    """Names of the components, made up where the data has none."""
    return tuple(names) if names and len(names) == width else tuple(f"a{i}" for i in range(width))
