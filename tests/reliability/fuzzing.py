"""Files with bytes changed, cut, put in and doubled, read in a process with little memory and an alarm clock.

A target is a folder of tiny true files and a way to read it. Each round changes one file of a copy and reads the whole:
it must end in a result or in a `DilaError`, within ten seconds of work. A process that dies or hangs is found by the
number of the round that it had begun.
"""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "train"))

SECONDS = 10
"""Of work for one file; beside that, a minute of waiting for what never comes, on a machine that may be busy."""
MEMORY = 3 * 2**30
"""Bytes beyond those that the process has when it begins."""
EDGES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f",
         b"\x80\0\0\0", b"\xff" * 8, b"\0" * 8]  # fmt: skip
NASTY: list[Any] = [None, True, -1, 0, 2**31, 2**63, 10**30, -0.0, float("nan"), float("inf"), 1e308, 1e-308, "", "\0",
                    "x" * 5000, "../../etc/passwd", "/dev/zero", "{0.__class__}", "{episode_index:999999999d}", [], {},
                    [[[[]]]], {"a": {}}, [1] * 5000, "NaN"]  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to four changes."""
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        data = draw.choice([_flip, _edge, _cut, _insert, _remove, _double])(data, draw)
    return data


def _at(data: bytes, draw: random.Random) -> int:
    """A place: headers and footers, where sizes stand, as often as all the rest."""
    within = draw.choice([len(data), min(64, len(data)), min(512, len(data))])
    place = draw.randrange(within) if within else 0
    return place if draw.random() < 0.7 else max(0, len(data) - 1 - place)


def _flip(data: bytes, draw: random.Random) -> bytes:
    place = _at(data, draw)
    return data[:place] + bytes(b ^ (1 << draw.randrange(8)) for b in data[place : place + 1]) + data[place + 1 :]


def _edge(data: bytes, draw: random.Random) -> bytes:
    place, edge = _at(data, draw), draw.choice(EDGES)
    return data[:place] + edge + data[place + len(edge) :]


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _insert(data: bytes, draw: random.Random) -> bytes:
    place = _at(data, draw)
    return data[:place] + draw.randbytes(draw.choice([1, 2, 4, 8, 100])) + data[place:]


def _remove(data: bytes, draw: random.Random) -> bytes:
    place = _at(data, draw)
    return data[:place] + data[place + draw.choice([1, 2, 4, 8, 100]) :]


def _double(data: bytes, draw: random.Random) -> bytes:
    place, length = _at(data, draw), draw.choice([1, 4, 16, 256])
    return data[: place + length] + data[place:]


def mutated_json(data: bytes, draw: random.Random) -> bytes:
    """A document with something unheard-of in the place of one value, or of one name."""
    value = json.loads(data)
    places = list(_places(value))
    holder, key = draw.choice(places) if places else ([value], 0)
    if isinstance(holder, dict) and draw.random() < 0.2:
        holder[str(draw.choice(NASTY))] = holder.pop(key)
    else:
        holder[key] = draw.choice(NASTY)
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in list(pairs):
        yield value, key
        yield from _places(below)


def change(folder: Path, draw: random.Random) -> Path:
    """Change one file of a folder; returns which."""
    path = draw.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    data = path.read_bytes()
    new = None
    if path.suffix == ".json" and draw.random() < 0.7:
        with suppress(ValueError):
            new = mutated_json(data, draw)
    path.write_bytes(mutated(data, draw) if new is None else new)
    return path


def read_corpus(folder: Path) -> list[str]:
    """Open, and read of two episodes what can be read; gives what was skipped."""
    from dila.data import open_corpus
    from dila.errors import DilaError
    from dila.imagine.windows import sample

    corpus = open_corpus(folder)
    for episode in corpus.episodes[:2]:
        for deed in (
            lambda e=episode: e.read([0, len(e.times) - 1]),
            lambda e=episode: dict(e.columns),
            lambda e=episode: sample(e, 0.25),
            lambda e=episode: e.fingerprint(),
        ):
            with suppress(DilaError):
                deed()
    return [skipped.reason for skipped in corpus.skipped]


def read_model(folder: Path) -> list[str]:
    """Load a trained model with its decoder."""
    from train_world import PatchConfig, PatchEncoder

    from dila import vision
    from dila.interop.pretrained import load_pretrained

    vision.ENCODERS["patch"] = (PatchEncoder, PatchConfig)
    load_pretrained(folder)
    return []


def read_trainer(folder: Path) -> list[str]:
    """Load what resuming needs."""
    from dila.train.checkpoint import load_trainer

    load_trainer(folder)
    return []


def read_released(folder: Path) -> list[str]:
    """Load released checkpoints, and statistics."""
    from dila.errors import DilaError
    from dila.interop.released import load_released
    from dila.vision import FeatureStatistics

    for path in sorted(folder.iterdir()):
        with suppress(DilaError):
            (FeatureStatistics.load if path.name == "stat.pt" else load_released)(path)
    return []


def read_shards(folder: Path) -> list[str]:
    """Read every tensor of a feature cache."""
    import numpy as np

    from dila.errors import DilaError
    from dila.vision.shards import open_shard, stored

    open_shard.cache_clear()
    (cache,) = {path.parent for path in folder.rglob("*.safetensors")}
    for key, (path, rows) in stored(cache).items():
        with suppress(DilaError):
            open_shard(str(path)).rows(key, np.arange(min(rows, 4)))
    return []


def read_tasks(folder: Path) -> list[str]:
    """Read starts and goals of VP2."""
    from dila.planning import vp2_files

    for path in sorted(folder.iterdir()):
        vp2_files.read_tasks(path)
    return []


READERS: dict[str, Callable[[Path], list[str]]] = {
    "corpus": read_corpus, "model": read_model, "trainer": read_trainer, "released": read_released,
    "shards": read_shards, "tasks": read_tasks,
}  # fmt: skip


def faults_of(read: Callable[[Path], list[str]], case: Path) -> list[str]:
    """What is wrong with how a folder is read: nothing if it ends in a result or in a sentence."""
    from dila.errors import DilaError

    try:
        return [reason for reason in read(case) if " is damaged (" in reason]
    except DilaError:
        return []
    except BaseException:
        return [traceback.format_exc(limit=-4)]


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


Job = tuple[str, Path, range]
"""A reader, the true files, and the seeds of the changes."""


def rounds(jobs: list[Job], work: Path, first: int) -> None:
    """The process: read all changed copies from the `first` on, and write down what went wrong."""
    import logging

    import torch

    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # FFmpeg's and HDF5's own remarks
    torch.set_num_threads(1)
    _limit()
    each = [(kind, source, seed) for kind, source, seeds in jobs for seed in seeds]
    with (work / "faults.jsonl").open("a") as faults:
        for number, (kind, source, seed) in enumerate(each):
            if number < first:
                continue
            (work / "round").write_text(str(number))
            case = work / "case"
            shutil.rmtree(case, ignore_errors=True)
            shutil.copytree(source, case)
            path = change(case, random.Random(seed))
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(6 * SECONDS)
            told = faults_of(READERS[kind], case)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            for reason in told:
                fault = {"of": source.name, "seed": seed, "file": path.name, "reason": reason[:1500]}
                faults.write(json.dumps(fault) + "\n")
                faults.flush()


def fuzz(jobs: list[Job], work: Path) -> list[dict[str, Any]]:
    """Every fault of these rounds; a process that died is counted and the next goes on behind it."""
    work.mkdir(parents=True, exist_ok=True)
    each = [(source.name, seed) for _, source, seeds in jobs for seed in seeds]
    deaths: list[dict[str, Any]] = []
    first = 0
    while first < len(each):
        process = multiprocessing.get_context("forkserver").Process(target=rounds, args=(jobs, work, first))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        reached = int((work / "round").read_text())
        of, seed = each[reached]
        deaths.append({"of": of, "seed": seed, "file": "?", "reason": f"the process ended with {process.exitcode}"})
        first = reached + 1
    return [json.loads(line) for line in (work / "faults.jsonl").read_text().splitlines()] + deaths
