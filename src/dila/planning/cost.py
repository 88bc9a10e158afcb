"""Costs of predicted frames; lower is better.

A cost declares what it `needs` of a frame, and only that is computed: "structure" takes a fifteenth of the model,
"features" all of it, "pixels" the decoder as well; "score", the environment's own distance to the goal, is available in
simulators only. Costs are computed frame by frame, so that no future is kept in memory.

Goals are clips of one or more frames, ``B G ...``. A goal of one frame is compared with every predicted frame. Frame k
of a longer goal is compared with the frame after the first k + 1 actions of the episode, its last frame with all later
ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from dila.errors import DilaError
from dila.metrics.image import Pictures, in_unit_range
from dila.shapes import Float, Tensor

Need = Literal["structure", "features", "pixels", "score"]
VP2_SIZE = 64
"""Picture size, in pixels, at which VP2 compares."""


class Moment(NamedTuple):
    """Frame k of the futures of S candidates in B environments; fields that no cost needs are None."""

    k: int
    structure: Float[Tensor, "B S H W Ds"] | None = None
    features: Float[Tensor, "B S H W D"] | None = None
    pixels: Float[Tensor, "B S 3 Y X"] | None = None
    """In [0, 1]."""
    score: Float[Tensor, "B S"] | None = None
    step: int = 0
    """Number of actions executed in the episode before these futures begin."""


@runtime_checkable
class FrameCost(Protocol):
    """Function from a frame of each candidate to one number."""

    @property
    def needs(self) -> frozenset[Need]:
        """Fields of `Moment` that the cost reads."""
        ...

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """Return the cost of this frame for each candidate."""
        ...


@dataclass(frozen=True)
class Structure:
    """Mean squared distance to the structure of a goal; no features are decoded.

    Args:
        goal: structure, ``B G H W Ds``.
        region: weight of each cell of the grid, ``H W``; None weighs all cells equally.

    Raises:
        DilaError: the weights do not sum to a positive finite number.
    """

    goal: Tensor
    region: Tensor | None = None
    needs: frozenset[Need] = frozenset({"structure"})

    def __post_init__(self):
        _check_region(self.region)

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        assert moment.structure is not None
        return _map_distance(moment.structure, _at(self.goal, moment), self.region)


@dataclass(frozen=True)
class Features:
    """Mean squared distance to the frozen features of a goal, ``B G H W D``; arguments and errors as in `Structure`."""

    goal: Tensor
    region: Tensor | None = None
    needs: frozenset[Need] = frozenset({"features"})

    def __post_init__(self):
        _check_region(self.region)

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        assert moment.features is not None
        return _map_distance(moment.features, _at(self.goal, moment), self.region)


@dataclass(frozen=True)
class Pixels:
    """Squared distance to a goal's pixels, summed over the picture as in VP2.

    Args:
        goal: pictures, uint8 or in [0, 1], ``B G 3 Y X``, of any size.
        size: size, in pixels, at which pictures are compared.

    Raises:
        DilaError: the goal has another shape or range.
    """

    goal: Tensor
    size: int = VP2_SIZE
    needs: frozenset[Need] = frozenset({"pixels"})

    def __post_init__(self):
        if self.goal.ndim != 5 or self.goal.shape[2] != 3:
            raise DilaError(f"a goal of Pixels must be B G 3 Y X, not {list(self.goal.shape)}; one picture is G = 1")
        object.__setattr__(self, "goal", in_unit_range(self.goal))

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        assert moment.pixels is not None
        goal = _resized(_at(self.goal, moment).to(moment.pixels), self.size)
        return (_resized(moment.pixels.clamp(0, 1), self.size) - goal).square().sum((2, 3, 4))


@dataclass(frozen=True)
class Classified:
    """Negative logit that the goal is reached, from a classifier of frames.

    Args:
        classifier: function from N frames (``N H W D`` or ``N 3 Y X``) to N logits, such as `GoalClassifier`.
        on: its input.
        size: size, in pixels, to which pictures are resized first; None keeps theirs.
    """

    classifier: Callable[[Tensor], Tensor]
    on: Need = "features"
    size: int | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """See `FrameCost`."""
        return frozenset({self.on})

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        seen = getattr(moment, self.on)
        if self.size is not None:
            seen = _resized(seen, self.size)
        return -self.classifier(seen.flatten(0, 1)).reshape(seen.shape[:2])


@dataclass(frozen=True)
class Reach:
    """Distance of an object from a region: the minimum squared distance of the cells there to the object's vector.

    Args:
        thing: features or structure of the object, one vector, ``D``.
        region: mask of the cells where it should be, ``H W``.
        on: whether ``thing`` is "features" or "structure".

    Raises:
        DilaError: the region is empty.
    """

    thing: Tensor
    region: Tensor
    on: Need = "features"

    def __post_init__(self):
        _check_region(self.region)

    @property
    def needs(self) -> frozenset[Need]:
        """See `FrameCost`."""
        return frozenset({self.on})

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        cells = getattr(moment, self.on)[:, :, self.region.bool()]
        return (cells - self.thing.to(cells)).square().mean(-1).amin(-1)


@dataclass(frozen=True)
class Score:
    """The environment's own distance to the goal, for simulators only."""

    needs: frozenset[Need] = frozenset({"score"})

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        assert moment.score is not None
        return moment.score


@dataclass(frozen=True)
class Called:
    """Your own function as a cost.

    Args:
        function: function from a `Moment` to ``B S``.
        needs: fields of `Moment` that it reads.
    """

    function: Callable[[Moment], Tensor]
    needs: frozenset[Need]

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        return self.function(moment)


@dataclass(frozen=True)
class Sum:
    """Weighted sum of costs."""

    parts: Sequence[tuple[float, FrameCost]]

    @property
    def needs(self) -> frozenset[Need]:
        """See `FrameCost`."""
        return frozenset().union(*(cost.needs for _, cost in self.parts))

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        return torch.stack([weight * cost(moment) for weight, cost in self.parts]).sum(0)


@dataclass(frozen=True)
class Later:
    """A cost after ``step`` actions of the episode: goals that are clips advance by as many frames."""

    cost: FrameCost
    step: int

    @property
    def needs(self) -> frozenset[Need]:
        """See `FrameCost`."""
        return self.cost.needs

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        return self.cost(moment._replace(step=self.step))


def vp2(goal: Pictures, classifier: Callable[[Tensor], Tensor]) -> Sum:
    """Return VP2's objective for RoboDesk: half the squared pixel distance, minus ten times the classifier's logit."""
    return Sum([(0.5, Pixels(goal)), (10.0, Classified(classifier, "pixels", VP2_SIZE))])


Over = Literal["mean", "sum", "last"]
"""How the costs of the K frames of a future are combined; VP2 uses the sum."""


def total(frames: Sequence[Float[Tensor, "B S"]], over: Over) -> Float[Tensor, "B S"]:
    """Combine the costs of the frames of each candidate into one number."""
    table = torch.stack(list(frames))
    return {"mean": table.mean(0), "sum": table.sum(0), "last": table[-1]}[over]


def _at(goal: Tensor, moment: Moment) -> Tensor:
    """Select the goal frames of a moment, ``B 1 ...``, from goals ``B G ...``."""
    return goal[:, min(moment.step + moment.k, goal.shape[1] - 1)][:, None]


def _check_region(region: Tensor | None) -> None:
    if region is not None and not 0 < float(region.float().sum()) < torch.inf:
        raise DilaError(
            "the weights of region must sum to a positive finite number; give positive weights to some cells"
        )


def _map_distance(
    maps: Float[Tensor, "B S H W C"], goal: Tensor, region: Float[Tensor, "H W"] | None
) -> Float[Tensor, "B S"]:
    if goal.ndim != maps.ndim or goal.shape[2:] != maps.shape[2:] or len(goal) not in (1, len(maps)):
        raise DilaError(
            f"a goal of {len(goal)} x {list(goal.shape[2:])} cannot be compared with futures of {len(maps)} x "
            f"{list(maps.shape[2:])}; give B G H W C, from Imagination.structure for Structure or from "
            "Imagination.see for Features"
        )
    squared = (maps.float() - goal.to(maps.device, torch.float32)).square().mean(-1)
    if region is None:
        return squared.mean((2, 3))
    weight = region.to(squared)
    return (squared * weight).sum((2, 3)) / weight.sum()


def _resized(pictures: Float[Tensor, "B S 3 _ _"], size: int) -> Float[Tensor, "B S 3 Y X"]:
    """Resize bilinearly without antialiasing, as VP2 resizes its predictions."""
    if pictures.shape[-1] == size and pictures.shape[-2] == size:
        return pictures
    flat = F.interpolate(pictures.flatten(0, 1), (size, size), mode="bilinear", align_corners=False)
    return flat.reshape(*pictures.shape[:3], size, size)
