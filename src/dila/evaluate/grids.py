"""Figures 3 and 8: action transfer. The latent actions of source clips in the scenes of others, as a grid and a video.

Rows of the grid are sources, columns are scenes; the first column shows the sources, the first row the scenes.
``z_cosine`` compares the actions inferred again from a transferred clip with those of its source, and with those of
another source: if both are high, z does not distinguish actions. It is measured on more clips than are drawn: as many
as are pinned, one per episode, each in the next few scenes and never in its own.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dila.data import Clips, write_video
from dila.errors import DilaError
from dila.evaluate.bench import Bench, spread
from dila.evaluate.pins import Pin, longest
from dila.evaluate.result import Result, numbered, score_rows
from dila.imagine.pictures import PAPER, fitted, write_sheet
from dila.imagine.rollout import rollout
from dila.imagine.windows import infer_long
from dila.protocols import Episode
from dila.shapes import Float, Tensor, UInt8

GAP = 3


class Shot(NamedTuple):
    """Features of a clip, its episode, its name in rows of results, and its frame indices."""

    e: Float[Tensor, "T H W D"]
    episode: str
    name: str
    index: np.ndarray


def measure_transfer(bench: Bench) -> Result:
    """Measure and draw transfer between clips of different episodes, or from another data set (``--source``).

    Raises:
        DilaError: there are too few episodes or clips.
    """
    began = time.monotonic()
    count = max(2, bench.settings.pictures)
    scenes = _scenes(bench)
    sources = _sources(bench) if bench.settings.source else scenes
    z = torch.cat([_infer(bench, source.e[None]) for source in sources])
    where = _where(len(sources), len(scenes), count, same=sources is scenes)
    right, wrong = [], []
    for i, there in enumerate(where):
        again = _infer(bench, _imagine(bench, z[i], [scenes[j].e for j in there])).float()
        right.append(F.cosine_similarity(again, z[i].float(), dim=-1))
        wrong.append(F.cosine_similarity(again, z[i - 1].float(), dim=-1))
    owners = torch.tensor(numbered([sources[i].episode for i, there in enumerate(where) for _ in there]))
    scores = [
        score_rows("z_cosine/its_source", torch.cat(right), owners),
        score_rows("z_cosine/another_source", torch.cat(wrong), owners, "lower"),
    ]
    names = tuple(f"source {sources[i].name} in scene {scenes[j].name}" for i, there in enumerate(where) for j in there)
    pictures, notes = {}, ("pictures are omitted: the model has no decoder (dila train-decoder)",)
    if bench.world.decoder is not None:
        shown = [scenes[i] for i in spread(len(scenes), count + 1)]
        given = [sources[i] for i in spread(len(sources), count)]
        pictures, notes = _draw(bench, given if bench.settings.source else shown[:count], shown), ()
    return bench.finish("transfer", began, scores, rows=names, notes=notes, pictures=pictures)


def _where(sources: int, scenes: int, count: int, same: bool) -> list[list[int]]:
    """Indices of the scenes of each source: the ``count`` after its own, which is excluded if both are the same."""
    return [[(i + k) % scenes for k in range(1, min(count, scenes - same) + 1)] for i in range(sources)]


def _infer(bench: Bench, e: Float[Tensor, "B T H W D"]) -> Float[Tensor, "B K Dz"]:
    with bench.world.running():
        return infer_long(bench.world.model, e.to(bench.device), bench.world.frames)


def _imagine(bench: Bench, z: Float[Tensor, "K Dz"], scenes: Sequence[Tensor]) -> Float[Tensor, "S T H W D"]:
    """Roll out these actions from the first frame of each scene; the frame is included."""
    first = torch.stack([scene[:1] for scene in scenes]).to(bench.device)
    with bench.world.running():
        made = rollout(bench.world.model, first, z.expand(len(scenes), -1, -1)).float()
    return torch.cat([first.float(), made], dim=1)


def _scenes(bench: Bench) -> list[Shot]:
    """One clip of each of up to `Settings.clips` held-out episodes, `Bench.pins.frames` long."""
    cut = Clips(bench.held, bench.pins.frames, bench.world.stride)
    places: dict[int, list[int]] = {}
    for item in range(len(cut)):
        places.setdefault(cut.index_of(item)[0], []).append(item)
    if len(places) < 2:
        raise DilaError("transfer needs clips of at least two held-out episodes; raise --held-out or record more")
    items = list(places.values())
    return [_shot(cut, items[i][len(items[i]) // 2]) for i in spread(len(items), bench.settings.clips)]


def _sources(bench: Bench) -> list[Shot]:
    """Up to `Settings.clips` clips spread over the other data set; shorter if its episodes are short."""
    frames = longest(bench.source, bench.world.stride, bench.pins.frames)
    cut = Clips(bench.source, frames, bench.world.stride)
    if len(cut) < 2:
        raise DilaError(
            f"--source: {bench.settings.source} has only one held-out clip of {frames} frames, but transfer needs two; "
            "give more episodes"
        )
    shots = [_shot(cut, i) for i in spread(len(cut), bench.settings.clips)]
    return [shot._replace(e=bench.world.encoder.encode(shot.e[None])[0]) for shot in shots]


def _shot(cut: Clips, item: int) -> Shot:
    number, index = cut.index_of(item)
    episode = cut.episodes[number].id
    return Shot(cut[item].frames, episode, Pin(episode, int(index[0])).name, index)


def _draw(bench: Bench, sources: Sequence[Shot], scenes: Sequence[Shot]) -> dict[str, str]:
    o_sources = [_pictures(bench, bench.source or bench.held_frames, source) for source in sources]
    still = [_pictures(bench, bench.held_frames, scene)[:1].expand(len(o_sources[0]), -1, -1, -1) for scene in scenes]
    made = [_imagine(bench, _infer(bench, source.e[None])[0], [scene.e for scene in scenes]) for source in sources]
    grid = [[bench.world.draw(clip, scene) for scene, clip in zip(still, row, strict=True)] for row in made]
    blank = torch.full_like(still[0], PAPER)
    rows = [[blank, *still], *([source, *row] for source, row in zip(o_sources, grid, strict=True))]
    video, sheet = bench.out / "transfer.mp4", bench.out / "transfer.png"
    write_video(video, _tiled(rows), 1 / bench.world.stride)
    strips = {}
    for i, (source, row) in enumerate(zip(o_sources, grid, strict=True)):
        strips[f"source {i + 1}"] = source
        others = [(j, clip) for j, clip in enumerate(row) if bench.settings.source or j != i]
        strips |= {f"source {i + 1}'s actions in scene {j + 1}": clip for j, clip in others[:2]}
    write_sheet(sheet, strips, columns=min(9, len(blank)))
    caption = "Left: the sources of the actions. Top: the scenes. Inside: rollouts from each scene's first frame."
    return {sheet.name: "Latent actions of one clip in the scenes of others.", video.name: caption}


def _pictures(bench: Bench, episodes: Sequence[Episode], shot: Shot) -> UInt8[Tensor, "T 3 Y X"]:
    (episode,) = (episode for episode in episodes if episode.id == shot.episode)
    return bench.world.pictures(episode.read(shot.index.tolist()))


def _tiled(rows: Sequence[Sequence[UInt8[Tensor, "T 3 _ _"]]]) -> UInt8[Tensor, "T 3 _ _"]:
    """Tile clips in a grid with gaps, each fitted to the size of the largest."""
    size = [max(clip.shape[side] for row in rows for clip in row) for side in (-2, -1)]
    padded = [torch.cat([F.pad(fitted(clip, size), (GAP,) * 4, value=PAPER) for clip in row], dim=3) for row in rows]
    return torch.cat(padded, dim=2)
