"""Checkpoints: a trained model in the usual format, plus the state that exact resuming needs.

``out/checkpoints/step_0001000/`` contains the files of `dila.interop.pretrained` and ``trainer.pt`` (optimiser,
sampler, random states, step). A checkpoint is written under a hidden name, synced to disk and renamed, and an old one
is renamed before it is deleted, so a visible checkpoint is always complete. The one with the highest number is the
newest. The learning rate is a function of the step and is not saved.
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
"""Held by the thread that uses this process's random generators."""
_log = logging.getLogger(__name__)


class TrainerState(NamedTuple):
    """Training state besides the weights; all of it loads with ``weights_only``, so without running code."""

    step: int
    """Number of optimiser steps done."""
    stage: int
    """Index of the stage of the last step done."""
    optimiser: dict[str, Any]
    sampler: dict[str, Any]
    """Sampler state of that stage."""
    random: list[dict[str, Any]]
    """Random states, one per process."""
    actions: dict[str, Any]
    """Output of `Learner.action_weights`."""
    data: str
    """Fingerprint of the training episodes."""
    faults: list[dict[str, Any]]
    """States of `Faults`, one per process."""
    spikes: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    """State of `Spikes`."""
    dying: int = 0
    """Consecutive logged steps with collapsed latents."""


def newest(out: Path) -> Path | None:
    """Newest checkpoint of a run; None if there is none."""
    found = checkpoints(out)
    return found[-1] if found else None


def save_checkpoint(
    out: Path, pretrained: Pretrained, state: TrainerState, keep: int, notes: Mapping[str, Any]
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Raises:
        DilaError: the disk is full or not writable; nothing partial is left.
    """
    folder = out / CHECKPOINTS / f"step_{state.step:07d}"
    if not folder.exists():  # runs are reproducible, so an existing checkpoint of this step is the same
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
    """Remove all but the newest `keep` checkpoints, and leftovers of killed writers; for one process of a run only."""
    folder = out / CHECKPOINTS
    for old in checkpoints(out)[:-keep]:
        os.replace(old, folder / f".{old.name}.gone")
    for left in [*folder.glob(".step_*"), *folder.glob("..step_*")]:
        if left.is_dir():  # not a lock file
            shutil.rmtree(left)


def _to_disk(folder: Path) -> None:
    """Sync a folder and its files to disk."""
    for path in [*(child for child in folder.iterdir() if child.is_file()), folder]:
        to_disk(path)


def load_trainer(folder: Path) -> TrainerState:
    """Load the training state of a checkpoint.

    Raises:
        DilaError: the file is missing, damaged or from another version.
    """
    path = folder / TRAINER
    try:
        return TrainerState(**load_plain(path))
    except (OSError, ValueError, TypeError) as error:
        raise DilaError(
            f"{path} cannot be loaded ({error}); remove {folder} to resume from an older checkpoint"
        ) from error


def restore_process(state: TrainerState, rank: int, world: int, seed: int) -> dict[str, Any]:
    """Restore this process's random generators, and return its state of `Faults`.

    If the number of processes has changed, generators are seeded from the run's seed, the step and the rank instead, so
    only dropout differs from an uninterrupted run, and rank 0 takes over the faults of all processes.
    """
    if len(state.random) == world:
        restore_random_state(state.random[rank])
        return state.faults[rank]
    _log.warning("the checkpoint is from %d process(es), this run has %d: dropout differs", len(state.random), world)
    key = int(np.random.SeedSequence([seed, state.step, rank, world]).generate_state(1)[0])
    torch.manual_seed(key)
    np.random.seed(key)
    random.seed(key)
    every = [faults if rank == 0 else {"drawn": 0, "skipped": 0, "unlisted": []} for faults in state.faults]
    return {name: sum((faults[name] for faults in every), type(every[0][name])()) for name in every[0]}


def random_state() -> dict[str, Any]:
    """States of all random generators of this process: torch (CPU and accelerator), numpy and Python."""
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
    """Restore the output of `random_state`, for the generators that this machine has."""
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
    """Restore the random generators of this process after the block.

    Raises:
        DilaError: another thread is inside such a block, so random numbers would not be reproducible.
    """
    if not _GENERATORS.acquire(blocking=False):
        raise DilaError(
            "another thread of this process is training, and both would use the same random generators; train one "
            "after the other, or in separate processes"
        )
    try:
        before = random_state()
        try:
            yield
        finally:
            restore_random_state(before)
    finally:
        _GENERATORS.release()
