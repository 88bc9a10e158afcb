"""Where candidates are tried out: in the imagination of a model, or in copies of the simulator itself.

Both turn what is the case now and a cost into a function from candidates to their costs, which is all that a planner
sees. The context is read once for all candidates of all environments.
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
"""Futures imagined at once."""
_ON_A_CPU, _ELSEWHERE = 1 << 22, 1 << 26
"""Numbers in one frame's features of all futures that are imagined at once. More are slower on a processor, whose
caches they leave, and memory would grow with the number of candidates."""

ToLatent = Callable[[Tensor], Tensor]
"""Real actions ``B K Da`` to latent ones ``B K Dz``."""


class Now(NamedTuple):
    """What is the case in B environments."""

    frames: UInt8[Tensor, "B T 3 Y X"]
    """The last frames, the present one at the end."""
    environments: Sequence[Any]


def at_once(e: Features) -> int:
    """How many futures to imagine at once from such frames on their device; the rest waits its turn."""
    numbers = _ON_A_CPU if e.device.type == "cpu" else _ELSEWHERE
    return max(1, min(_MOST, numbers // e[0, 0].numel()))


def in_turn(candidates: Tensor, count: int, axis: int = 0) -> tuple[Tensor, ...]:
    """The candidates in parts as alike as can be, of so many at the most."""
    return candidates.chunk(ceil(candidates.shape[axis] / count), axis)


class Imagination:
    """Futures in a world model.

    Args:
        world: model, encoder and decoder.
        to_latent: actions of the environment to latent actions; the model's own action encoder when None.
        over: how the costs of a future's frames become one.
        chunk: futures at once, instead of `at_once`.

    Raises:
        DilaError: the model has no action encoder.
    """

    def __init__(self, world: World, to_latent: ToLatent | None = None, over: Over = "mean", chunk: int | None = None):
        self.world, self.chunk = world, chunk
        self.over: Over = over
        self.to_latent = to_latent or _own_encoder(world.model)

    def see(self, frames: UInt8[Tensor, "B T 3 Y X"]) -> Features:
        """Features of frames.

        Raises:
            DilaError: frames of another shape.
        """
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise DilaError(f"frames should be B T 3 Y X, not {list(frames.shape)}; one picture is a clip of T = 1")
        with self.world.running():
            return self.world.encoder.encode(frames)

    def structure(self, frames: UInt8[Tensor, "B T 3 Y X"]) -> Structure:
        """Structure of frames, such as a goal's."""
        with self.world.running():
            return self.layout().read(self.see(frames)).float()

    def layout(self) -> Layout:
        """The model as it moves structure alone.

        Raises:
            DilaError: it has no structure.
        """
        return _layout(self.world.model)

    def costs(self, now: Now, cost: FrameCost) -> CostOf:
        """The cost of candidates ``B S K Da`` that begin now; what it does not need is not computed.

        Raises:
            DilaError: the cost needs what only a simulator has, or what this model has not.
        """
        if "score" in cost.needs:
            raise DilaError("a model cannot know the environment's own score; choose another cost, or a simulator")
        if "pixels" in cost.needs and self.world.decoder is None:
            raise DilaError("this model has no decoder, which a cost of pixels needs: dila train-decoder")
        model: Any = self.world.model
        if cost.needs == {"structure"}:
            model = _layout(model)
        elif "structure" in cost.needs:
            _layout(model)  # says it of a model that has none
        e = self.see(now.frames)
        with self.world.running():
            state = model.start(e)

        def of(candidates: Tensor) -> Tensor:
            with self.world.running(), torch.set_grad_enabled(candidates.requires_grad):
                return torch.cat([self._some(model, state, part, cost) for part in self.in_turn(candidates, e)], dim=1)

        return of

    def in_turn(self, candidates: Float[Tensor, "B S K Da"], e: Features) -> tuple[Float[Tensor, "B _ K Da"], ...]:
        """Candidates on the device of the context's features, in parts of as many futures as are imagined at once."""
        return in_turn(candidates.to(e.device), max(1, (self.chunk or at_once(e)) // len(e)), axis=1)

    def imagine(self, now: Now, actions: Float[Tensor, "B K Da"]) -> Float[Tensor, "B K H W D"]:
        """Features of the frames under these actions: what a plan looks like."""
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
        """Structure, features and pixels of N futures."""
        structure = reached.s if "structure" in cost.needs else None
        features = made if "features" in cost.needs else None
        pixels = None
        if "pixels" in cost.needs:
            assert self.world.decoder is not None
            pixels = self.world.decoder.decode(made[:, None].float())[:, 0]
        return structure, features, pixels


@dataclass(frozen=True)
class Simulation:
    """Futures in the simulator itself: what a perfect model would know.

    Args:
        eyes: what turns pictures into the features and structure that a cost needs; None where it needs neither.
        over: how the costs of a future's frames become one.
    """

    eyes: Imagination | None = None
    over: Over = "mean"

    def costs(self, now: Now, cost: FrameCost) -> CostOf:
        """The cost of candidates ``B S K Da`` that begin now; each environment is put back as it was after every one.

        Raises:
            DilaError: an environment that cannot be put back, or a cost that needs eyes where there are none.
        """
        for environment in now.environments:
            if not isinstance(environment, Simulated):
                raise DilaError(f"{type(environment).__name__} cannot be put back to a state; plan with a model")
        if cost.needs - {"score", "pixels"} and self.eyes is None:
            raise DilaError(f"a cost of {', '.join(sorted(cost.needs))} in a simulator needs the model's eyes")

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
        """Features and structure of the futures, a few at a time; the frames before them are read once."""
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
    """Features, where the cost needs them, and structure, where there is a past of each of the B."""
    shape, e, s = pictures.shape[:2], eyes.see(pictures.flatten(0, 1)), None
    if past is not None:
        with eyes.world.running():
            s = eyes.layout().read(e, repeat_state(past, shape[1])).float().unflatten(0, shape)
    return e.unflatten(0, shape) if "features" in cost.needs else None, s


def _layout(model: Any) -> Layout:
    if not isinstance(model, DiLA):
        raise DilaError(f"a cost of structure needs a DiLA, not {type(model).__name__}; choose features or pixels")
    return Layout(model)


def _own_encoder(model: Any) -> ToLatent:
    if getattr(model, "action_encoder", None) is None:
        raise DilaError("this model knows latent actions alone; give it real ones with: dila adapt MODEL DATA")
    return model.encode_actions
