"""Videos of two clips: actions transferred, structure and content rebound, structure frozen. Each is one .mp4."""

from pathlib import Path

from dila.imagine.pictures import Rows, scaled, write_clip
from dila.imagine.world import World
from dila.shapes import Tensor, UInt8

PAGE = 960
"""Approximate width in pixels of a video across the page; with much rescaling by the page its labels are illegible."""


def transfer_rows(world: World, source: UInt8[Tensor, "T 3 Y X"], target: UInt8[Tensor, "T2 3 Y2 X2"]) -> Rows:
    """Return the source, the true future of the target, and the target under the source's actions."""
    moved = world.draw(world.transfer(source, target).e, target)
    return {"source": source[1:], "target, true": target[1:], "source's actions here": moved}


def rebind_rows(world: World, structure: UInt8[Tensor, "T 3 Y X"], content: UInt8[Tensor, "T2 3 Y2 X2"]) -> Rows:
    """Combine the structure of one clip with the content of another. Raises DilaError if the model is not a DiLA."""
    bound = world.draw(world.rebind(structure, content).e, structure)
    return {"structure from": structure[1:], "content from": content[1:], "rebound": bound}


def freeze_rows(world: World, frames: UInt8[Tensor, "T 3 Y X"]) -> Rows:
    """Return a clip, and the same with its structure frozen. Raises DilaError if the model is not a DiLA."""
    still = world.draw(world.isolate(frames).e, frames)
    return {"true": frames[1:], "structure held still": still}


def write_rows(rows: Rows, path: Path, stride: float, width: int = PAGE) -> Path:
    """Write clips side by side, cut to the shortest: here they are aligned at their starts."""
    length, side = min(map(len, rows.values())), width // len(rows)
    write_clip(path, {name: scaled(clip[:length], side) for name, clip in rows.items()}, 1 / stride)
    return path
