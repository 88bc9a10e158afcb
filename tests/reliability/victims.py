"""What gets interrupted: verbs on tiny inputs, each in a process of its own that a test may kill.

Processes are forked from a server that has imported everything, so that one costs a fraction of a second. Each does the
whole of its work in one folder, from whatever an earlier one left there.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "train"))

PRELOADED = ["victims", "dila.train.loop", "dila.imagine.world", "dila.imagine.encode", "dila.data.primitives",
             "dila.data.lerobot_write", "dila.evaluate.tables", "matplotlib.backends.backend_agg", "pyarrow.parquet",
             "pandas", "accelerate", "av", "PIL.PngImagePlugin", "torch._dynamo", "torch.distributed.fsdp"]  # fmt: skip
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
"""What Python tells of every change of a folder, before it is made."""


def train(folder: Path, data: Path) -> None:
    """Encode, train a decoder, then eight steps in two stages, with a checkpoint after every second."""
    from train_world import PatchConfig, PatchEncoder, small_run

    from dila import vision
    from dila.train.loop import train
    from dila.train.objectives import OneStep, Rollout
    from dila.train.run import DecoderRun, Stage

    vision.ENCODERS["patch"] = (PatchEncoder, PatchConfig)
    run = small_run(
        stages=(Stage(OneStep(), steps=5), Stage(Rollout(), steps=3, frames=3)), checkpoint_every=2, keep=2,
        evaluate_every=4, decoder=DecoderRun(steps=3, batch=4, size=16, width=8, max_width=8, frames=20),
    )  # fmt: skip
    train(run, data, folder / "run", cache_dir=folder / "cache", progress=False)


def train_plain(folder: Path, data: Path, **changes: Any) -> None:
    """Six steps of four clips without dropout, whose losses do not depend on how the clips are dealt out."""
    from train_world import PatchConfig, PatchEncoder, small_model, small_run

    from dila import vision
    from dila.train.loop import train
    from dila.train.objectives import OneStep, Rollout, Terms, Weights
    from dila.train.run import Stage

    vision.ENCODERS["patch"] = (PatchEncoder, PatchConfig)
    model = replace(small_model(), dropout=0.0)
    model = replace(model, idm=replace(model.idm, dropout=0.0), fdm=replace(model.fdm, dropout=0.0))
    # Diversity and symmetry are of the clips of one process together, not means over clips.
    terms = Terms(Weights(feature=1.0, structure=0.1, action=0.1, norm=0.01, diversity=0.0, symmetry=0.0))
    stages = (Stage(OneStep(terms), steps=4), Stage(Rollout(terms), steps=2, frames=3))
    run = small_run(stages=stages, model=model, checkpoint_every=1, keep=9, **changes)
    train(run, data, folder / "run", cache_dir=folder / "cache", progress=False)


def train_parted(folder: Path, data: Path) -> None:
    """The same with a part of every tensor on each process."""
    train_plain(folder, data, shard=True)


def train_coded(folder: Path, data: Path, **changes: Any) -> None:
    """Twelve steps of discrete actions whose weights stay; each process leaves codebook and usage at every save."""
    from train_world import PatchConfig, PatchEncoder, small_model, small_run

    from dila import vision
    from dila.model.config import Discrete
    from dila.train.loop import Trainer, train
    from dila.train.objectives import OneStep
    from dila.train.run import Optimiser, Stage

    save, rank = Trainer.save, os.environ["RANK"]

    def leaving(trainer: Any) -> None:
        book = trainer.spread.gather(trainer.learner).model.bottleneck.each
        torch.save((book.entries.detach(), book.usage), folder / f"{trainer.step}-{rank}.pt")
        save(trainer)

    Trainer.save = leaving
    vision.ENCODERS["patch"] = (PatchEncoder, PatchConfig)
    model = replace(small_model(), dropout=0.0, bottleneck=Discrete(codes=8, tokens=2))
    model = replace(model, idm=replace(model.idm, dropout=0.0), fdm=replace(model.fdm, dropout=0.0))
    run = small_run(
        stages=(Stage(OneStep(), steps=12),), model=model, optimiser=Optimiser(lr=0.0), checkpoint_every=1, keep=12,
        evaluate_every=12, guard=None, **changes,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    train(run, data, folder / "run", cache_dir=folder / "cache", progress=False)


def train_coded_in_two(folder: Path, data: Path) -> None:
    """The same, each batch in two parts."""
    train_coded(folder, data, accumulate=2)


def train_coded_parted(folder: Path, data: Path) -> None:
    """The same with a part of every tensor on each process, each batch in two parts."""
    train_coded(folder, data, accumulate=2, shard=True)


def encode(folder: Path, data: Path) -> None:
    """Encode a corpus in parts of one episode and shards of a few kilobytes."""
    from train_world import PatchEncoder

    from dila.imagine.encode import encode_corpus
    from dila.vision import cache

    cache.SHARD_BYTES, cache.PIECE = 2_000, 8
    encode_corpus(data, PatchEncoder(), folder / "cache", part=2, progress=False)


def label(folder: Path, data: Path) -> None:
    """Label a corpus in parts of one episode."""
    from train_world import PatchEncoder, small_model

    from dila.imagine.label import label
    from dila.imagine.world import World
    from dila.model.dila import DiLA

    torch.manual_seed(0)
    world = World(DiLA(small_model()).eval(), PatchEncoder(), stride=0.1, frames=4)
    label(world, data, folder / "z.parquet", part=1, batch=2, progress=False)


def record(folder: Path, data: Path) -> None:
    """Record six episodes as videos with a table."""
    from dila.data.primitives import render_primitives

    render_primitives(folder / "recorded", 6, 5, 32, 0, "rotation", progress=False)


def record_lerobot(folder: Path, data: Path) -> None:
    """Record six episodes as a LeRobot data set."""
    from dila.data.lerobot_write import LeRobotV3
    from dila.data.primitives import render_primitives

    store = LeRobotV3("turn")
    render_primitives(folder / "recorded", 6, 5, 32, 0, "rotation", progress=False, store=store)


def evaluate(folder: Path, data: Path) -> None:
    """Measure a model by three tables with pictures."""
    from train_world import PatchConfig, PatchEncoder, small_model

    from dila import vision
    from dila.analysis import mlp_probe
    from dila.evaluate.bench import Settings, open_bench
    from dila.evaluate.tables import measure_some
    from dila.interop.pretrained import Pretrained, save_pretrained
    from dila.model.dila import DiLA
    from dila.vision.conv_decoder import ConvDecoder, ConvDecoderConfig

    vision.ENCODERS["patch"], mlp_probe.STEPS = (PatchEncoder, PatchConfig), 20
    torch.manual_seed(0)
    model, decoder = DiLA(small_model()).eval(), ConvDecoder(ConvDecoderConfig(8, (4, 4), 16, 8, 8)).eval()
    save_pretrained(folder / "model", Pretrained(model, PatchEncoder(), decoder, 0.2, 4))
    settings = Settings(frames=4, clips=4, pairs=16, pictures=2)
    bench = open_bench(
        folder / "model", str(data), folder / "judged" / "pictures", settings,
        cache_dir=folder / "cache", held_out=0.4, device="cpu",
    )  # fmt: skip
    measure_some(bench, ("generation", "motion", "probe"), folder / "judged" / "evaluation.json")


OTHERS: dict[str, Callable[[Path, Path], None]] = {
    verb.__name__: verb for verb in (train_plain, train_parted, train_coded, train_coded_in_two, train_coded_parted)
}
VERBS: dict[str, Callable[[Path, Path], None]] = {
    "train": train, "encode": encode, "label": label, "record": record, "record_lerobot": record_lerobot,
    "evaluate": evaluate,
}  # fmt: skip


def joined(rank: int, world: int, port: int, die_at: int | None = None) -> None:
    """Before the verb: be one of several processes, as a launcher would have it, and die after a step."""
    from dila.train import loop

    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {key: str(value) for key, value in told.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    optimise = loop.Trainer._optimise

    def until(trainer: Any, *arguments: Any) -> Any:
        if trainer.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return optimise(trainer, *arguments)

    loop.Trainer._optimise = until


class Changes:
    """Counts the changes of files by this process, and kills it just before one of them."""

    def __init__(self, dies_at: int | None):
        self.count, self.dies_at, self.owner = 0, dies_at, os.getpid()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and self._writes(arguments)):
            self.count += 1
            if self.count == self.dies_at and os.getpid() == self.owner:
                os.kill(self.owner, signal.SIGKILL)

    @staticmethod
    def _writes(arguments: tuple[Any, ...]) -> bool:
        path, _, flags = arguments
        return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)) and str(path)[:5] != "/dev/"


def work(
    verb: str, folder: Path, data: Path, dies_at: int | None, before: Callable[[], None] | None, tell: Any
) -> None:
    """The process: what a test does to it `before`, then the verb; an error is told, not printed."""
    torch.set_num_threads(1)
    changes, began = Changes(dies_at), time.monotonic()
    if before is not None:
        before()
    sys.addaudithook(changes)
    try:
        (VERBS | OTHERS)[verb](folder, data)
    except Exception as error:
        tell.send(f"{type(error).__name__}: {error}")
        sys.exit(1)
    changes.dies_at = None
    told = {"changes": changes.count, "seconds": time.monotonic() - began}
    (folder.parent / f"{folder.name}.json").write_text(json.dumps(told))


def start(
    verb: str, folder: Path, data: Path, dies_at: int | None = None, before: Callable[[], None] | None = None
) -> Any:
    """A process at its work; `told` gives what it said at its end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    hear, tell = context.Pipe(duplex=False)
    process: Any = context.Process(target=work, args=(verb, folder, data, dies_at, before, tell))
    process.hear = hear
    process.start()
    tell.close()
    return process


def told(process: Any) -> str:
    """Why a process ended, or nothing."""
    process.join()
    try:
        return process.hear.recv() if process.hear.poll() else ""
    except EOFError:
        return ""


def digest(tensors: dict[str, Any]) -> dict[str, str]:
    """Each tensor as a hash of its bits."""
    return {
        name: hashlib.sha256(x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, x in tensors.items()
    }


def files(folder: Path, *, hidden: bool = True) -> dict[str, str]:
    """Every file below a folder with the hash of its contents."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if hidden or not any(part.startswith(".") for part in Path(name).parts)
    }


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a log without what the clock says."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "clips_per_second"} for line in lines]
