"""Checkpoints: a trained model that anyone can load, and beside it what exact resuming needs.

``out/checkpoints/step_0001000/`` holds the files of `dila.interop.pretrained` and ``trainer.pt`` (optimiser, sampler,
random states, step). It is written under a hidden name and renamed, so a folder of that name is always whole, and the
newest is the one with the highest number. The learning rate is a function of the step and needs no saving.
"""

import os
import pickle
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from dila.errors import DilaError
from dila.interop.pretrained import CHECKPOINTS, Pretrained, save_pretrained

TRAINER = "trainer.pt"
_STEP = re.compile(r"step_(\d{7,})$")


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


def newest(out: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one."""
    found = _all(out)
    return found[-1] if found else None


def save_checkpoint(
    out: Path, pretrained: Pretrained, state: TrainerState, keep: int, notes: Mapping[str, Any]
) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`."""
    folder = out / CHECKPOINTS / f"step_{state.step:07d}"
    if folder.exists():
        return folder  # a run is a function of its step: what is there is the same
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_pretrained(partial, pretrained, dict(notes))
    torch.save(state._asdict(), partial / TRAINER)
    os.replace(partial, folder)
    for old in _all(out)[:-keep]:
        shutil.rmtree(old)
    return folder


def load_trainer(folder: Path) -> TrainerState:
    """What `save_checkpoint` kept beside the weights.

    Raises:
        DilaError: the file is missing, damaged or of another version.
    """
    path = folder / TRAINER
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        return TrainerState(**stored)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, TypeError) as error:
        raise DilaError(
            f"{path} cannot be resumed from ({error}); remove {folder} to go on from an older one"
        ) from error


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


def _all(out: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    folder = out / CHECKPOINTS
    if not folder.is_dir():
        return []
    steps = [(int(match[1]), child) for child in folder.iterdir() if (match := _STEP.match(child.name))]
    return [child for _, child in sorted(steps)]
