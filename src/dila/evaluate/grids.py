"""Figures 3 and 8: action transfer. The actions of some clips in the scenes of others, as a grid and a video.

Rows are the clips whose actions are taken, columns the scenes; the first column shows the source, the first row the
scenes as they were. ``z_cosine`` says how well the actions inferred from an imagined clip agree with those that were
put in, against those of another source: high for both would mean that z says nothing of the action.
"""

import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from dila.data import Clips, open_corpus, write_video
from dila.errors import DilaError
from dila.evaluate.bench import Bench
from dila.evaluate.probing import spread
from dila.evaluate.result import Result, score_rows
from dila.imagine.pictures import write_sheet
from dila.imagine.transfer import transfer
from dila.imagine.windows import infer_long
from dila.protocols import Episode
from dila.shapes import Float, Tensor, UInt8

GAP = 3


def measure_transfer(bench: Bench) -> Result:
    """Transfer between clips of different episodes, or from another data set, ``--source``.

    Raises:
        DilaError: too few episodes, or the source cannot be read.
    """
    began = time.monotonic()
    count = max(2, bench.settings.pictures)
    scenes = _first_clips(bench, bench.held, count + 1)
    sources = _sources(bench, count) if bench.settings.source else scenes[:count]
    with bench.world.running():
        z = torch.cat([infer_long(bench.world.model, a[None], bench.world.frames) for a in sources])
        made = _all_pairs(bench, sources, scenes)
        again = torch.stack([_read_again(bench, scenes, row) for row in made])
    right = torch.stack([F.cosine_similarity(again[i], z[i], dim=-1) for i in range(count)])
    wrong = torch.stack([F.cosine_similarity(again[i], z[(i + 1) % count], dim=-1) for i in range(count)])
    owners = torch.arange(count).repeat_interleave(len(scenes))
    scores = [
        score_rows("z_cosine/its_source", right.flatten(0, 1), owners),
        score_rows("z_cosine/another_source", wrong.flatten(0, 1), owners, "lower"),
    ]
    names = tuple(f"source {i} in scene {j}" for i in range(count) for j in range(len(scenes)))
    pictures = _draw(bench, sources, scenes, made) if bench.world.decoder is not None else {}
    notes = () if pictures else ("pictures are left out: the model has no decoder (dila train-decoder)",)
    return bench.finish("transfer", began, scores, rows=names, notes=notes, pictures=pictures)


def _all_pairs(bench: Bench, sources: Sequence[Tensor], scenes: Sequence[Tensor]) -> list[Float[Tensor, "S K H W D"]]:
    world, targets = bench.world, torch.stack([scene[:1] for scene in scenes])
    return [
        transfer(world.model, source[None].expand(len(scenes), -1, -1, -1, -1), targets, frames=world.frames).e.float()
        for source in sources
    ]


def _read_again(bench: Bench, scenes: Sequence[Tensor], made: Tensor) -> Float[Tensor, "S K Dz"]:
    first = torch.stack([scene[:1] for scene in scenes]).float()
    return infer_long(bench.world.model, torch.cat([first, made], dim=1), bench.world.frames)


def _first_clips(bench: Bench, episodes: Sequence[Episode], count: int) -> list[Float[Tensor, "T H W D"]]:
    """A clip of each of some episodes, `Bench.pins.frames` long."""
    cut = Clips(episodes, bench.pins.frames, bench.world.stride)
    places: dict[int, list[int]] = {}
    for item in range(len(cut)):
        places.setdefault(cut.index_of(item)[0], []).append(item)
    if len(places) < 2:
        raise DilaError("transfer needs clips of two episodes; hold out more")
    chosen = [list(places.values())[i] for i in spread(len(places), count)]
    return [cut[items[len(items) // 2]].frames.to(bench.device) for items in chosen]


def _sources(bench: Bench, count: int) -> list[Float[Tensor, "T H W D"]]:
    corpus = open_corpus(str(bench.settings.source))
    cut = Clips(corpus.episodes, bench.pins.frames, bench.world.stride)
    frames = [cut[i].frames for i in spread(len(cut), count)]
    return [bench.world.encoder.encode(o[None])[0].to(bench.device) for o in frames]


def _draw(bench: Bench, sources: Sequence[Tensor], scenes: Sequence[Tensor], made: Sequence[Tensor]) -> dict[str, str]:
    drawn_sources = [bench.world.draw(source) for source in sources]
    drawn_scenes = [bench.world.draw(scene[:1]).expand(len(sources[0]), -1, -1, -1) for scene in scenes]
    grid = [
        [torch.cat([scene[:1], bench.world.draw(clip)]) for scene, clip in zip(drawn_scenes, row, strict=True)]
        for row in made
    ]
    blank = torch.full_like(drawn_scenes[0], 255)
    rows = [[blank, *drawn_scenes], *([source, *row] for source, row in zip(drawn_sources, grid, strict=True))]
    video, sheet = bench.out / "transfer.mp4", bench.out / "transfer.png"
    write_video(video, _tiled(rows), max(1, round(1 / bench.world.stride)))
    strips = {}
    for i, (source, row) in enumerate(zip(drawn_sources, grid, strict=True)):
        strips[f"source {i + 1}"] = source
        others = [(j, clip) for j, clip in enumerate(row) if bench.settings.source or j != i]
        strips |= {f"source {i + 1}'s actions in scene {j + 1}": clip for j, clip in others[:2]}
    write_sheet(sheet, strips, columns=min(9, len(blank)))
    caption = (
        "Left: the clips whose actions are taken. Top: the scenes. Inside: imagined from each scene's first frame."
    )
    return {sheet.name: "Actions of one clip in the scene of another.", video.name: caption}


def _tiled(rows: Sequence[Sequence[UInt8[Tensor, "T 3 Y X"]]]) -> UInt8[Tensor, "T 3 _ _"]:
    """Clips of one size beside and under one another, with a gap."""
    padded = [torch.cat([F.pad(clip, (GAP, GAP, GAP, GAP), value=255) for clip in row], dim=3) for row in rows]
    whole = torch.cat(padded, dim=2)
    odd = (whole.shape[2] % 2, whole.shape[3] % 2)  # video wants even sides
    return F.pad(whole, (0, odd[1], 0, odd[0]), value=255)
