"""What a future is judged by, frame by frame; lower is better.

A cost says what it `needs` of a frame, and only that is computed: "structure" alone costs a fifteenth of the model,
"features" the whole of it, "pixels" the decoder as well, and "score", the environment's own distance to the goal, only
a simulator has. Frames are judged as they come, so that no future is held in memory whole.

Goals are tensors with a clip of one or more frames, ``B G ...``: an image is a clip of one, which every imagined frame
is compared with. A longer clip begins with the frame after the first action: what k + 1 actions have made since the
episode began is compared with its frame k, and with its last one after that.
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
"""Pixels a side that VP2 compares at."""


class Moment(NamedTuple):
    """Frame k of the futures of S candidates in B environments; what no cost needs is None."""

    k: int
    structure: Float[Tensor, "B S H W Ds"] | None = None
    features: Float[Tensor, "B S H W D"] | None = None
    pixels: Float[Tensor, "B S 3 Y X"] | None = None
    """In [0, 1]."""
    score: Float[Tensor, "B S"] | None = None
    step: int = 0
    """Actions of the episode that were done before these futures begin."""


@runtime_checkable
class FrameCost(Protocol):
    """One number a candidate and frame."""

    @property
    def needs(self) -> frozenset[Need]:
        """What of a frame it looks at."""
        ...

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """The cost of one frame of each candidate."""
        ...


@dataclass(frozen=True)
class Structure:
    """Mean squared distance to the structure of a goal: nothing is drawn.

    Args:
        goal: structure, ``B G H W Ds``.
        region: weight of each cell of the grid, ``H W``; None weighs all alike.

    Raises:
        DilaError: the region weighs nothing.
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
    """Mean squared distance to the frozen features of a goal; arguments as `Structure`, ``B G H W D``."""

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
    """Squared distance to a goal's pixels, summed over the picture as VP2 has it.

    Args:
        goal: pictures, uint8 or in [0, 1], ``B G 3 Y X``, of any size.
        size: pixels a side at which pictures are compared.

    Raises:
        DilaError: pictures of another shape or range.
    """

    goal: Tensor
    size: int = VP2_SIZE
    needs: frozenset[Need] = frozenset({"pixels"})

    def __post_init__(self):
        if self.goal.ndim != 5 or self.goal.shape[2] != 3:
            raise DilaError(f"a goal of Pixels should be B G 3 Y X, not {list(self.goal.shape)}; one picture is G = 1")
        object.__setattr__(self, "goal", in_unit_range(self.goal))

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        assert moment.pixels is not None
        goal = _resized(_at(self.goal, moment).to(moment.pixels), self.size)
        return (_resized(moment.pixels.clamp(0, 1), self.size) - goal).square().sum((2, 3, 4))


@dataclass(frozen=True)
class Classified:
    """Minus the logit that the goal is reached, by a classifier of frames.

    Args:
        classifier: what is needed of N frames (``N H W D`` or ``N 3 Y X``) to N logits, such as `GoalClassifier`.
        on: what it looks at.
        size: pixels a side that it is shown, of pictures; None shows them as they are.
    """

    classifier: Callable[[Tensor], Tensor]
    on: Need = "features"
    size: int | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """What it looks at."""
        return frozenset({self.on})

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        seen = getattr(moment, self.on)
        if self.size is not None:
            seen = _resized(seen, self.size)
        return -self.classifier(seen.flatten(0, 1)).reshape(seen.shape[:2])


@dataclass(frozen=True)
class Reach:
    """Something should be found in a region: the least squared distance there to what it looks like.

    Args:
        thing: features or structure of it, one vector, ``D``.
        region: true where it should be, ``H W``.
        on: of which the vector is.

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
        """What it looks at."""
        return frozenset({self.on})

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        cells = getattr(moment, self.on)[:, :, self.region.bool()]
        return (cells - self.thing.to(cells)).square().mean(-1).amin(-1)


@dataclass(frozen=True)
class Score:
    """The environment's own distance to the goal: the truth, for simulators alone."""

    needs: frozenset[Need] = frozenset({"score"})

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        assert moment.score is not None
        return moment.score


@dataclass(frozen=True)
class Called:
    """A function of one's own.

    Args:
        function: from a `Moment` to ``B S``.
        needs: what it looks at.
    """

    function: Callable[[Moment], Tensor]
    needs: frozenset[Need]

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        return self.function(moment)


@dataclass(frozen=True)
class Sum:
    """Several costs by weights."""

    parts: Sequence[tuple[float, FrameCost]]

    @property
    def needs(self) -> frozenset[Need]:
        """What any of them looks at."""
        return frozenset().union(*(cost.needs for _, cost in self.parts))

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        return torch.stack([weight * cost(moment) for weight, cost in self.parts]).sum(0)


@dataclass(frozen=True)
class Later:
    """A cost when so many actions of the episode are done: goals that are clips have moved on by as many frames."""

    cost: FrameCost
    step: int

    @property
    def needs(self) -> frozenset[Need]:
        """What the cost looks at."""
        return self.cost.needs

    def __call__(self, moment: Moment) -> Float[Tensor, "B S"]:
        """See `FrameCost`."""
        return self.cost(moment._replace(step=self.step))


def vp2(goal: Pictures, classifier: Callable[[Tensor], Tensor]) -> Sum:
    """VP2's objective of RoboDesk: half the squared pixels, less ten times the logits of the goal's classifier."""
    return Sum([(0.5, Pixels(goal)), (10.0, Classified(classifier, "pixels", VP2_SIZE))])


Over = Literal["mean", "sum", "last"]
"""How the costs of the K frames of a future become one number; VP2's is the sum."""


def total(frames: Sequence[Float[Tensor, "B S"]], over: Over) -> Float[Tensor, "B S"]:
    """One number a candidate from those of its frames."""
    table = torch.stack(list(frames))
    return {"mean": table.mean(0), "sum": table.sum(0), "last": table[-1]}[over]


def _at(goal: Tensor, moment: Moment) -> Tensor:
    """Of goals ``B G ...`` those of a moment, ``B 1 ...``."""
    return goal[:, min(moment.step + moment.k, goal.shape[1] - 1)][:, None]


def _check_region(region: Tensor | None) -> None:
    if region is not None and not 0 < float(region.float().sum()) < torch.inf:
        raise DilaError("region weighs no cell of the grid, or not by numbers; give one above 0 where it should look")


def _map_distance(
    maps: Float[Tensor, "B S H W C"], goal: Tensor, region: Float[Tensor, "H W"] | None
) -> Float[Tensor, "B S"]:
    if goal.ndim != maps.ndim or goal.shape[2:] != maps.shape[2:] or len(goal) not in (1, len(maps)):
        raise DilaError(
            f"a goal of {len(goal)} x {list(goal.shape[2:])} cannot be compared with futures of {len(maps)} x "
            f"{list(maps.shape[2:])}; give B G H W C, made by Imagination.structure for Structure and by "
            "Imagination.see for Features"
        )
    squared = (maps.float() - goal.to(maps.device, torch.float32)).square().mean(-1)
    if region is None:
        return squared.mean((2, 3))
    weight = region.to(squared)
    return (squared * weight).sum((2, 3)) / weight.sum()


def _resized(pictures: Float[Tensor, "B S 3 _ _"], size: int) -> Float[Tensor, "B S 3 Y X"]:
    """Bilinear without antialiasing, as VP2 brings its predictions to their size."""
    if pictures.shape[-1] == size and pictures.shape[-2] == size:
        return pictures
    flat = F.interpolate(pictures.flatten(0, 1), (size, size), mode="bilinear", align_corners=False)
    return flat.reshape(*pictures.shape[:3], size, size)
