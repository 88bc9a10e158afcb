"""Labelling very many short clips: memory and clips a second, tenth by tenth. Prints JSON.

    OMP_NUM_THREADS=1 python benchmarks/load.py --clips 100000 > benchmarks/results/load.json

Every clip is a file of its own (four frames of 64 x 64), read, encoded and labelled for true: the embedded encoder on a
grid of 4 x 4, and DiLA at tiny size with random weights, which cost what trained ones do. Clips a second of processor
time stand beside those of the clock, which other work on the machine slows down.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dila.data import open_corpus, write_video
from dila.imagine import label as module
from dila.imagine.world import World
from dila.model.dila import DiLA
from dila.model.presets import preset
from dila.vision import build_encoder

SIDE, FRAMES, DIFFERENT, TENTHS = 64, 4, 16, 10


class Mark(NamedTuple):
    """The state of the process at a moment."""

    clock: float
    processor: float
    megabytes: float
    """Of memory that no file backs."""


def mark() -> Mark:
    held = int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024
    return Mark(time.monotonic(), time.process_time(), held)


def write_clips(root: Path, clips: int) -> Path:
    """So many files in folders of a thousand: a few films of noise, again and again."""
    torch.manual_seed(0)
    for number in range(clips):
        target = root / f"{number // 1000:03d}" / f"{number:06d}.mp4"
        if number < DIFFERENT:
            write_video(target, torch.randint(0, 256, (FRAMES, 3, SIDE, SIDE), dtype=torch.uint8), 10)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(root / "000" / f"{number % DIFFERENT:06d}.mp4", target)
    return root


def small_world() -> World:
    """A true encoder and a true model, as small as they come."""
    torch.manual_seed(0)
    encoder = build_encoder(
        {"name": "efficientnet-lite0", "size": SIDE, "taps": ["stride8", "stride16"], "grid": "coarse"}
    )
    config = replace(preset("tiny"), grid=encoder.grid, feature_dim=encoder.feature_dim)
    return World(DiLA(config).eval(), encoder, stride=0.1, frames=8)


def tenths(marks: list[Mark]) -> list[dict[str, float]]:
    """From one mark a part, the last of them at the end: what each tenth of the parts did, and memory at its end."""
    ends = [round(tenth * (len(marks) - 1) / TENTHS) for tenth in range(TENTHS + 1)]
    rows = []
    for first, last in pairwise(ends):
        clips, begin, end = module.EPISODES_PER_PART * (last - first), marks[first], marks[last]
        rows.append(
            {
                "clips_per_second": round(clips / (end.clock - begin.clock), 1),
                "clips_per_processor_second": round(clips / (end.processor - begin.processor), 1),
                "megabytes": round(end.megabytes, 1),
            }
        )
    return rows


def measure(clips: int) -> dict[str, Any]:
    """Label so many clips, a multiple of ten parts."""
    torch.set_num_threads(1)
    marks, table = [], module._Part.table

    def watched(*arguments: Any) -> Any:
        marks or marks.append(mark())
        made = table(*arguments)
        marks.append(mark())
        return made

    module._Part.table = watched
    try:
        with tempfile.TemporaryDirectory() as folder:
            root, world = write_clips(Path(folder) / "clips", clips), small_world()
            before = mark()
            corpus = open_corpus(root)
            opened = mark()
            del corpus
            made = module.label(world, root, Path(folder) / "z.parquet", progress=False)
            after = mark()
    finally:
        module._Part.table = table
    parts = tenths(marks)
    return {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        "clips": made.videos, "rows": made.rows, "actions": made.actions, "skipped": len(made.skipped),
        "open_seconds": round(opened.clock - before.clock, 1),
        "open_processor_seconds": round(opened.processor - before.processor, 1),
        "corpus_megabytes": round(opened.megabytes - before.megabytes, 1),
        "all_seconds": round(after.clock - opened.clock, 1),
        "megabytes_after_putting_together": round(after.megabytes, 1),
        "tenths": parts,
        "last_to_second_tenth": {
            "speed_by_processor": round(
                parts[-1]["clips_per_processor_second"] / parts[1]["clips_per_processor_second"], 3
            ),
            "megabytes_more": round(parts[-1]["megabytes"] - parts[1]["megabytes"], 1),
        },
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    print(json.dumps(measure(parser.parse_args().clips), indent=1))
