"""Labelling very many short clips: memory and clips a second from the first fifth to the last. Prints JSON.

python benchmarks/load.py --clips 100000
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from einops import reduce

from dila.data import open_corpus, write_video
from dila.imagine import label as module
from dila.imagine.world import World


class Cells:
    """The mean colour of each cell: an encoder that costs nothing, so that all else shows."""

    grid, feature_dim = (4, 4), 3

    def encode(self, o):
        return reduce(o.float() / 255, "b t c (h p) (w q) -> b t h w c", "mean", h=4, w=4) - 0.5

    def config(self):
        return {"name": "cells"}


class Change:
    """A model whose latent action is the mean change."""

    def infer(self, e):
        return (e[:, 1:] - e[:, :-1]).mean((2, 3))


def held() -> float:
    """Megabytes of this process that no file backs."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def measure(clips: int) -> dict:
    """Label so many copies of a clip of eight frames."""
    torch.set_num_threads(1)
    marks = []
    label_part = module._label_part

    def watched(*arguments):
        made = label_part(*arguments)
        marks.append((time.monotonic(), held()))
        return made

    module._label_part = watched
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clips"
        write_video(root / "000" / "000000.mp4", torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8), 10)
        for number in range(1, clips):
            target = root / f"{number // 1000:03d}" / f"{number:06d}.mp4"
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(root / "000" / "000000.mp4", target)
        before, began = held(), time.monotonic()
        corpus = open_corpus(root)
        opened, of_corpus = time.monotonic() - began, held() - before
        del corpus
        world = World(Change(), Cells(), stride=0.1, frames=8)
        made = module.label(world, root, Path(folder) / "z.parquet", progress=False)
    fifth = len(marks) // 5
    early, late = marks[fifth : 2 * fifth], marks[-fifth:]
    speed = [32 * (len(part) - 1) / (part[-1][0] - part[0][0]) for part in (early, late)]
    return {
        "clips": made.videos, "actions": made.actions, "skipped": len(made.skipped),
        "open_seconds": round(opened, 1), "corpus_megabytes": round(of_corpus, 1),
        "clips_per_second": {"second fifth": round(speed[0], 1), "last fifth": round(speed[1], 1)},
        "megabytes_grown_from_the_second_fifth_to_the_last": round(late[-1][1] - early[0][1], 1),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    print(json.dumps(measure(parser.parse_args().clips), indent=1))
