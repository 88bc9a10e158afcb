"""Films of two clips: actions moved, layout rebound, structure frozen. Each is written side by side as one .mp4."""

from pathlib import Path

from dila.imagine.pictures import Rows, scaled, write_clip
from dila.imagine.world import World
from dila.shapes import Tensor, UInt8

PAGE = 960
"""Pixels of a film as wide as a page, about: enlarged or shrunk much by the page, its labels could not be read."""


def transfer_rows(world: World, source: UInt8[Tensor, "T 3 Y X"], target: UInt8[Tensor, "T2 3 Y2 X2"]) -> Rows:
    """What happened in the source, what truly happened next in the target, and the source's actions there."""
    moved = world.draw(world.transfer(source, target).e, target)
    return {"source": source[1:], "target, true": target[1:], "source's actions here": moved}


def rebind_rows(world: World, structure: UInt8[Tensor, "T 3 Y X"], content: UInt8[Tensor, "T2 3 Y2 X2"]) -> Rows:
    """The layout and motion of one clip in the appearance of another. Raises DilaError if the model is no DiLA."""
    bound = world.draw(world.rebind(structure, content).e, structure)
    return {"structure from": structure[1:], "content from": content[1:], "rebound": bound}


def freeze_rows(world: World, frames: UInt8[Tensor, "T 3 Y X"]) -> Rows:
    """A clip, and the same with its structure held still. Raises DilaError if the model is no DiLA."""
    still = world.draw(world.isolate(frames).e, frames)
    return {"true": frames[1:], "structure held still": still}


def write_rows(rows: Rows, path: Path, stride: float, width: int = PAGE) -> Path:
    """Side by side, all as long as the shortest: they begin together here."""
    length, side = min(map(len, rows.values())), width // len(rows)
    write_clip(path, {name: scaled(clip[:length], side) for name, clip in rows.items()}, 1 / stride)
    return path
