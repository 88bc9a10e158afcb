"""A visitor's rollout as an immutable value: each move returns the next one, undo the previous one."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from dila.data import write_video
from dila.data.clips import resized
from dila.errors import DilaError
from dila.imagine.world import World
from dila.shapes import Float, Tensor, UInt8

LONGEST = 64
"""Maximum number of imagined frames."""


class Play(NamedTuple):
    """The rollout so far. The last picture is shown; the first is the true frame.

    Only the first and last state are kept: a state contains the model's whole memory, megabytes that grow with length.
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
    """Start from the last of these true frames."""
    with world.running():
        state = world.model.start(world.features(frames)[None])
    return Play(state, state, (frames[-1],), ())


def move(world: World, play: Play, z: Float[Tensor, " Dz"]) -> Play:
    """Imagine one more frame under a latent action.

    Raises:
        DilaError: the rollout has its maximum length, or the action has the wrong size.
    """
    if len(play.actions) >= LONGEST:
        raise DilaError(f"a rollout has at most {LONGEST} imagined frames; undo some or press Begin")
    state, e = _step(world, play.state, z)
    return Play(play.start, state, (*play.pictures, world.draw(e, play.pictures[0])[0]), (*play.actions, z))


def undo(world: World, play: Play) -> Play:
    """Remove the last move by repeating the rollout without it; unchanged if there is none."""
    if not play.actions:
        return play
    state = play.start
    for z in play.actions[:-1]:
        state, _ = _step(world, state, z)
    return Play(play.start, state, play.pictures[:-1], play.actions[:-1])


def reset(world: World, play: Play) -> Play:
    """Return to the true frame."""
    return Play(play.start, play.start, play.pictures[:1], ())


def film(play: Play) -> UInt8[Tensor, "T 3 Y X"]:
    """Return all pictures from the true one on, at the size of the imagined ones."""
    return torch.stack([resized(play.pictures[0], play.now.shape[-2:]), *play.pictures[1:]])


def export(play: Play, path: Path, stride: float) -> Path:
    """Write the rollout as .mp4. Raises DilaError if no frame was imagined yet."""
    if not play.actions:
        raise DilaError("there is nothing to export yet; imagine at least one frame first")
    write_video(path, film(play), 1 / stride)
    return path


def _step(world: World, state: Any, z: Float[Tensor, " Dz"]) -> tuple[Any, Tensor]:
    with world.running():
        return world.model.step(state, z[None].to(world.device))
