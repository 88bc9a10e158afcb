"""Checkpoints: a trained model that anyone can load, and beside it what exact resuming needs.

``out/checkpoints/step_0001000/`` holds the files of `dila.interop.pretrained` and ``trainer.pt`` (optimiser, sampler,
random states, step). It is written under a hidden name, forced to the disk and renamed, and an old one is renamed
before it is removed, so a folder of that name is always whole, and the newest is the one with the highest number. The
learning rate is a function of the step and needs no saving.
"""

import logging
import os
import random
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from dila.errors import DilaError
from dila.files import to_disk, writing
from dila.interop.find import CHECKPOINTS, checkpoints
from dila.interop.pretrained import Pretrained, save_pretrained
from dila.vision.stored import load_plain, write_plain

TRAINER = "trainer.pt"
_GENERATORS = threading.RLock()
"""Held by the thread that has seeded this process's generators."""
_log = logging.getLogger(__name__)


class TrainerState(NamedTuple):
    """Everything besides the weights. All of it loads without running code (``weights_only``)."""

    step: int
    """Optimiser steps done."""
    stage: int
    """Place in the run's stages of the last step done."""
    optimiser: dict[str, Any]
    sampler: dict[str, Any]
    """Of that stage."""
    random: list[dict[str, Any]]
    """Random states, one a process."""
    actions: dict[str, Any]
    """Of `Learner.action_weights`."""
    data: str
    """Fingerprint of the training episodes."""
    faults: list[dict[str, Any]]
    """What could not be read, one a process."""
    spikes: dict[str, Any] = {}  # noqa: RUF012  (of a NamedTuple, which shares no default that is written to)
    """Steps that were left out."""
    dying: int = 0
    """Logged steps that the latents have been dying for."""


def newest(out: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one."""
    found = checkpoints(out)
    return found[-1] if found else None


def save_checkpoint(
    out: Path, pretrained: Pretrained, state: TrainerState, keep: int, notes: Mapping[str, Any]
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Raises:
        DilaError: the disk is full or may not be written to; nothing of the attempt is left.
    """
    folder = out / CHECKPOINTS / f"step_{state.step:07d}"
    if not folder.exists():  # a run is a function of its step: what is there is the same
        partial = folder.with_name(f".{folder.name}.partial")
        try:
            with writing(folder):
                save_pretrained(partial, pretrained, dict(notes))
                write_plain(partial / TRAINER, state._asdict())
                _to_disk(partial)
                os.replace(partial, folder)
                _to_disk(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    tidy(out, keep)
    return folder


def tidy(out: Path, keep: int) -> None:
    """Remove all but the newest checkpoints, and what killed writers left; only one process of a run may."""
    folder = out / CHECKPOINTS
    for old in checkpoints(out)[:-keep]:
        os.replace(old, folder / f".{old.name}.gone")
    for left in [*folder.glob(".step_*"), *folder.glob("..step_*")]:
        if left.is_dir():  # no lock
            shutil.rmtree(left)


def _to_disk(folder: Path) -> None:
    """Force a folder and its files to the disk."""
    for path in [*(child for child in folder.iterdir() if child.is_file()), folder]:
        to_disk(path)


def load_trainer(folder: Path) -> TrainerState:
    """What `save_checkpoint` kept beside the weights.

    Raises:
        DilaError: the file is missing, damaged or of another version.
    """
    path = folder / TRAINER
    try:
        return TrainerState(**load_plain(path))
    except (OSError, ValueError, TypeError) as error:
        raise DilaError(
            f"{path} cannot be resumed from ({error}); remove {folder} to go on from an older one"
        ) from error


def restore_process(state: TrainerState, rank: int, world: int, seed: int) -> dict[str, Any]:
    """Put this process's generators where the checkpoint has them; returns what it could not read, of `Faults`.

    Under another number of processes no state fits: generators are seeded by the run's seed, the step and the process,
    so that only dropout differs from the run that kept its number, and the first process takes over all faults.
    """
    if len(state.random) == world:
        restore_random_state(state.random[rank])
        return state.faults[rank]
    _log.warning("the checkpoint is of %d process(es), this run has %d: dropout differs", len(state.random), world)
    key = int(np.random.SeedSequence([seed, state.step, rank, world]).generate_state(1)[0])
    torch.manual_seed(key)
    np.random.seed(key)
    random.seed(key)
    every = [faults if rank == 0 else {"drawn": 0, "skipped": 0, "unlisted": []} for faults in state.faults]
    return {name: sum((faults[name] for faults in every), type(every[0][name])()) for name in every[0]}


def random_state() -> dict[str, Any]:
    """The state of every generator in this process: torch's (and the accelerator's), numpy's and Python's."""
    name, keys, position, has_gauss, gauss = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Go on from what `random_state` gave, as far as this machine has the same generators."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def own_random_state() -> Iterator[None]:
    """Around what seeds the generators of this process: afterwards they are as they were.

    Raises:
        DilaError: another thread is within it, and what both draw could not be repeated.
    """
    if not _GENERATORS.acquire(blocking=False):
        raise DilaError(
            "another thread of this process trains, and two would draw from the same random generators; train one "
            "after the other, or each in a process of its own"
        )
    try:
        before = random_state()
        try:
            yield
        finally:
            restore_random_state(before)
    finally:
        _GENERATORS.release()
