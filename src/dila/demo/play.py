"""A visitor's way through an imagined world, as a value: every move gives the next one, undo the one before."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from dila.data import write_video
from dila.data.clips import resized
from dila.errors import DilaError
from dila.imagine.world import World
from dila.shapes import Float, Tensor, UInt8

LONGEST = 64
"""Imagined frames at most."""


class Play(NamedTuple):
    """The way so far. The last picture is now; the first is the true one.

    Only the first and the last state are kept: one is a model's whole memory of the way, megabytes that grow with it.
    """

    start: Any
    state: Any
    pictures: tuple[UInt8[Tensor, "3 Y X"], ...]
    actions: tuple[Float[Tensor, " Dz"], ...]

    @property
    def now(self) -> UInt8[Tensor, "3 Y X"]:
        """The picture to show."""
        return self.pictures[-1]


def begin(world: World, frames: UInt8[Tensor, "T 3 Y X"]) -> Play:
    """Stand at the last of these true frames."""
    with world.running():
        state = world.model.start(world.features(frames)[None])
    return Play(state, state, (frames[-1],), ())


def move(world: World, play: Play, z: Float[Tensor, " Dz"]) -> Play:
    """One frame on under a latent action.

    Raises:
        DilaError: as far as it goes, or an action of another size.
    """
    if len(play.actions) >= LONGEST:
        raise DilaError(f"{LONGEST} imagined frames are the most; undo some or begin again")
    state, e = _step(world, play.state, z)
    return Play(play.start, state, (*play.pictures, world.draw(e, play.pictures[0])[0]), (*play.actions, z))


def undo(world: World, play: Play) -> Play:
    """Before the last move, by walking the way again without it; the same where there was none."""
    if not play.actions:
        return play
    state = play.start
    for z in play.actions[:-1]:
        state, _ = _step(world, state, z)
    return Play(play.start, state, play.pictures[:-1], play.actions[:-1])


def reset(world: World, play: Play) -> Play:
    """At the true frame again."""
    return Play(play.start, play.start, play.pictures[:1], ())


def film(play: Play) -> UInt8[Tensor, "T 3 Y X"]:
    """All pictures from the true one on, at the size of the imagined ones."""
    return torch.stack([resized(play.pictures[0], play.now.shape[-2:]), *play.pictures[1:]])


def export(play: Play, path: Path, stride: float) -> Path:
    """Write the film as .mp4. Raises DilaError when nothing was imagined yet."""
    if not play.actions:
        raise DilaError("nothing was imagined yet; move first, then export")
    write_video(path, film(play), 1 / stride)
    return path


def _step(world: World, state: Any, z: Float[Tensor, " Dz"]) -> tuple[Any, Tensor]:
    with world.running():
        return world.model.step(state, z[None].to(world.device))
