"""Dynamics that candidates are evaluated in: a world model, or the simulator itself.

Both turn the current state and a cost into a function from candidates to their costs, which is all that a planner sees.
The context is encoded once for all candidates.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch

from dila.errors import DilaError
from dila.imagine.layout import Layout
from dila.imagine.rollout import rollout, steps
from dila.imagine.world import World
from dila.model.backbone import BackboneCache
from dila.model.dila import DiLA, repeat_state
from dila.planning.cost import FrameCost, Moment, Over, total
from dila.planning.environment import Simulated, as_tensor
from dila.planning.planner import CostOf
from dila.shapes import Features, Float, LatentActions, Structure, Tensor, UInt8

_MOST = 1024
"""Maximum number of futures per forward pass."""
_ON_A_CPU, _ELSEWHERE = 1 << 22, 1 << 26
"""Maximum number of values in one frame's features of all futures of a forward pass. More do not fit into the caches of
a CPU, and memory would grow with the number of candidates."""

ToLatent = Callable[[Tensor], Tensor]
"""Function from real actions ``B K Da`` to latent actions ``B K Dz``."""


class Now(NamedTuple):
    """Current state of B environments."""

    frames: UInt8[Tensor, "B T 3 Y X"]
    """The last frames, up to the current one."""
    environments: Sequence[Any]


def at_once(e: Features) -> int:
    """Number of futures per forward pass, given features of the context."""
    numbers = _ON_A_CPU if e.device.type == "cpu" else _ELSEWHERE
    return max(1, min(_MOST, numbers // e[0, 0].numel()))


def in_turn(candidates: Tensor, count: int, axis: int = 0) -> tuple[Tensor, ...]:
    """Split candidates into parts of about equal size, of at most ``count``."""
    return candidates.chunk(ceil(candidates.shape[axis] / count), axis)


class Imagination:
    """Dynamics of a world model.

    Args:
        world: model, encoder and decoder.
        to_latent: function from actions of the environment to latent actions; None uses the model's action encoder.
        over: how the costs of the frames of a future are combined.
        chunk: futures per forward pass; None uses `at_once`.

    Raises:
        DilaError: the model has no action encoder.
    """

    def __init__(self, world: World, to_latent: ToLatent | None = None, over: Over = "mean", chunk: int | None = None):
        self.world, self.chunk = world, chunk
        self.over: Over = over
        self.to_latent = to_latent or _own_encoder(world.model)

    def see(self, frames: UInt8[Tensor, "B T 3 Y X"]) -> Features:
        """Return features of frames.

        Raises:
            DilaError: the frames have another shape.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise DilaError(f"frames must be B T 3 Y X, not {list(frames.shape)}; one picture is a clip of T = 1")
        with self.world.running():
            return self.world.encoder.encode(frames)

    def structure(self, frames: UInt8[Tensor, "B T 3 Y X"]) -> Structure:
        """Return the structure of frames, such as those of a goal."""
        with self.world.running():
            return self.layout().read(self.see(frames)).float()

    def layout(self) -> Layout:
        """Return the model restricted to structure.

        Raises:
            DilaError: the model has no structure.
        """
        return _layout(self.world.model)

    def costs(self, now: Now, cost: FrameCost) -> CostOf:
        """Return a function from candidates ``B S K Da`` to costs; only what the cost needs is computed.

        Raises:
            DilaError: the cost needs a simulator's score, or a decoder or structure that the model lacks.
        """
        if "score" in cost.needs:
            raise DilaError("a model does not know the environment's own score; choose another cost, or a simulator")
        if "pixels" in cost.needs and self.world.decoder is None:
            raise DilaError("a cost of pixels needs a decoder, but this model has no decoder: dila train-decoder")
        model: Any = self.world.model
        if cost.needs == {"structure"}:
            model = _layout(model)
        elif "structure" in cost.needs:
            _layout(model)  # raises if the model has no structure
        e = self.see(now.frames)
        with self.world.running():
            state = model.start(e)

        def of(candidates: Tensor) -> Tensor:
            with self.world.running(), torch.set_grad_enabled(candidates.requires_grad):
                return torch.cat([self._some(model, state, part, cost) for part in self.in_turn(candidates, e)], dim=1)

        return of

    def in_turn(self, candidates: Float[Tensor, "B S K Da"], e: Features) -> tuple[Float[Tensor, "B _ K Da"], ...]:
        """Move candidates to the device of the context's features, and split them into parts for one forward pass."""
        return in_turn(candidates.to(e.device), max(1, (self.chunk or at_once(e)) // len(e)), axis=1)

    def imagine(self, now: Now, actions: Float[Tensor, "B K Da"]) -> Float[Tensor, "B K H W D"]:
        """Return features of the frames under these actions, for example of a plan."""
        e = self.see(now.frames)
        with self.world.running():
            return rollout(self.world.model, e, self.to_latent(actions.to(e.device))).float()

    def _some(self, model: Any, state: Any, a: Float[Tensor, "B S K Da"], cost: FrameCost) -> Float[Tensor, "B S"]:
        batch, samples = a.shape[:2]
        z: LatentActions = self.to_latent(a.flatten(0, 1))
        costs = []
        for k, (reached, made) in enumerate(steps(model, repeat_state(state, samples), z)):
            moment = self._moment(cost, k, reached, made)
            seen = (None if part is None else part.unflatten(0, (batch, samples)) for part in moment)
            structure, features, pixels = seen
            costs.append(cost(Moment(k, structure, features, pixels)).float())
        return total(costs, self.over)

    def _moment(self, cost: FrameCost, k: int, reached: Any, made: Tensor) -> tuple[Tensor | None, ...]:
        """Structure, features and pixels of one frame of N futures, each if the cost needs it."""
        structure = reached.s if "structure" in cost.needs else None
        features = made if "features" in cost.needs else None
        pixels = None
        if "pixels" in cost.needs:
            assert self.world.decoder is not None
            pixels = self.world.decoder.decode(made[:, None].float())[:, 0]
        return structure, features, pixels


@dataclass(frozen=True)
class Simulation:
    """Dynamics of the simulator itself, the upper bound for any model.

    Args:
        eyes: model that computes features and structure of pictures; None if the cost needs neither.
        over: how the costs of the frames of a future are combined.
    """

    eyes: Imagination | None = None
    over: Over = "mean"

    def costs(self, now: Now, cost: FrameCost) -> CostOf:
        """Return a function from candidates ``B S K Da`` to costs; environments are restored after each candidate.

        Raises:
            DilaError: an environment is not `Simulated`, or the cost needs ``eyes`` and there are none.
        """
        for environment in now.environments:
            if not isinstance(environment, Simulated):
                raise DilaError(
                    f"{type(environment).__name__} lacks state, restore, advance, picture or score; plan with a model"
                )
        if cost.needs - {"score", "pixels"} and self.eyes is None:
            raise DilaError(
                f"a cost of {', '.join(sorted(cost.needs))} in a simulator needs a model; give it as eyes of Simulation"
            )

        def of(candidates: Tensor) -> Tensor:
            tried = [
                [self._try(environment, a, cost) for a in its.detach().cpu().numpy().copy()]
                for environment, its in zip(now.environments, candidates, strict=True)
            ]
            return total([cost(moment) for moment in self._moments(now, tried, cost)], self.over)

        return of

    def _try(self, environment: Simulated, actions: np.ndarray, cost: FrameCost) -> "_Future":
        before = environment.state()
        scores, pictures = [], []
        try:
            for action in actions:
                environment.advance(action)
                scores.append(environment.score())
                if cost.needs != {"score"}:
                    pictures.append(as_tensor(environment.picture()))
        finally:
            environment.restore(before)
        return _Future(torch.tensor(scores, dtype=torch.float32), torch.stack(pictures) if pictures else None)

    def _moments(self, now: Now, tried: Sequence[Sequence["_Future"]], cost: FrameCost) -> Iterator[Moment]:
        score = torch.stack([torch.stack([future.score for future in futures]) for futures in tried])
        pictures = features = structure = None
        if cost.needs != {"score"}:
            pictures = torch.stack([torch.stack([f.pictures for f in futures]) for futures in tried])  # type: ignore[misc]
            features, structure = self._seen(now, pictures, cost)
        for k in range(score.shape[2]):
            yield Moment(
                k,
                structure[:, :, k] if structure is not None else None,
                features[:, :, k] if features is not None else None,
                pictures[:, :, k].float() / 255 if pictures is not None and "pixels" in cost.needs else None,
                score[:, :, k],
            )

    def _seen(
        self, now: Now, pictures: UInt8[Tensor, "B S K 3 Y X"], cost: FrameCost
    ) -> tuple[Tensor | None, Tensor | None]:
        """Features and structure of the futures, in parts; the context is encoded once."""
        if self.eyes is None or not cost.needs & {"features", "structure"}:
            return None, None
        e, past = self.eyes.see(now.frames), None
        if "structure" in cost.needs:
            with self.eyes.world.running():
                _, past = self.eyes.layout().model.backbone(e)
        samples = max(1, at_once(e) // (pictures.shape[0] * pictures.shape[2]))
        parts = [_look(self.eyes, part, past, cost) for part in in_turn(pictures, samples, axis=1)]
        features, structure = (None if its[0] is None else torch.cat(its, 1) for its in zip(*parts, strict=True))
        return features, structure


Dynamics = Imagination | Simulation


class _Future(NamedTuple):
    score: Float[Tensor, " K"]
    pictures: UInt8[Tensor, "K 3 Y X"] | None


def _look(
    eyes: Imagination, pictures: UInt8[Tensor, "B S K 3 Y X"], past: BackboneCache | None, cost: FrameCost
) -> tuple[Tensor | None, Tensor | None]:
    """Features, if the cost needs them, and structure, if the past of each environment is given."""
    shape, e, s = pictures.shape[:2], eyes.see(pictures.flatten(0, 1)), None
    if past is not None:
        with eyes.world.running():
            s = eyes.layout().read(e, repeat_state(past, shape[1])).float().unflatten(0, shape)
    return e.unflatten(0, shape) if "features" in cost.needs else None, s


def _layout(model: Any) -> Layout:
    if not isinstance(model, DiLA):
        raise DilaError(f"a cost of structure needs a DiLA, not a {type(model).__name__}; choose features or pixels")
    return Layout(model)


def _own_encoder(model: Any) -> ToLatent:
    if getattr(model, "action_encoder", None) is None:
        raise DilaError("this model has no action encoder; adapt it to real actions with: dila adapt MODEL DATA")
    return model.encode_actions
