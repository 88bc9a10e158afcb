"""Set-up of accelerate, and agreement between processes."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from dila.errors import DilaError
from dila.train.checkpoint import newest
from dila.train.run import Run

PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU")
"""Distributed types of accelerate under which every process has the whole model."""


def accelerator_of(run: Run) -> Any:
    """Make the `accelerate.Accelerator` of this process, under a launcher or alone.

    Raises:
        DilaError: the launcher splits the model, or ``graph`` is set where no graph can be recorded.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    # The learner does its own autocast. In stages without actions the action encoder gets no gradient.
    unused = run.model.real_action_dim is not None or run.uses_actions
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=unused),
        InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # others wait while one process fills the feature cache
    ]
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=handlers)
    if accelerator.distributed_type.value not in PLAIN:
        raise DilaError(
            f"accelerate launch is configured for {accelerator.distributed_type.value}, which is not supported; launch "
            "with --multi_gpu or torchrun instead, and use dila train --shard to split the model"
        )
    if run.graph and (accelerator.device.type != "cuda" or accelerator.num_processes > 1):
        where = f"{accelerator.num_processes} process(es) on {accelerator.device.type}"
        raise DilaError(f"graph needs one process on CUDA, but this run has {where}; remove graph")
    return accelerator


def newest_of_all(accelerator: Any, out: Path) -> Path | None:
    """Find the newest checkpoint of a run, and check that all processes find the same one.

    Raises:
        DilaError: they do not, as on machines without a shared disk.
    """
    from accelerate.utils import gather_object

    accelerator.wait_for_everyone()  # the main process may be removing old checkpoints
    last = newest(out)
    seen = gather_object([last and last.name])
    if len(set(seen)) > 1:
        raise DilaError(
            f"the processes of this run find different checkpoints in {out} ({', '.join(map(str, seen))}); put "
            "--out on a disk that all machines share"
        )
    return last


def agreed(accelerator: Any, *wishes: bool) -> list[bool]:
    """Return, for each flag, whether any process sets it: all must stop and save at the same step."""
    if accelerator.num_processes == 1:
        return list(wishes)
    flags = torch.tensor([float(wish) for wish in wishes], device=accelerator.device)
    return (accelerator.reduce(flags, reduction="sum") > 0).tolist()
