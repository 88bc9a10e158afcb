"""One process or several: what `accelerate` is told."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from dila.errors import DilaError
from dila.train.checkpoint import newest
from dila.train.run import Run

PLAIN = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_NPU", "MULTI_XPU")
"""Ways of accelerate under which every process has the whole model."""


def accelerator_of(run: Run) -> Any:
    """The `accelerate.Accelerator` of this process: alone, or one of those that ``accelerate launch`` began.

    Raises:
        DilaError: launched in a way that splits the model, or ``graph`` where no graph can be recorded.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs

    # Autocast is the learner's own. Without actions in every stage the action encoder has no gradient in some.
    unused = run.model.real_action_dim is not None or run.uses_actions
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=unused),
        InitProcessGroupKwargs(timeout=timedelta(hours=12)),  # the others wait while one fills the feature cache
    ]
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=handlers)
    if accelerator.distributed_type.value not in PLAIN:
        raise DilaError(
            f"accelerate launch was told to use {accelerator.distributed_type.value}, which checkpoints here know "
            "nothing of; start it without (as --multi_gpu, or by torchrun), and split the model by dila train --shard"
        )
    if run.graph and (accelerator.device.type != "cuda" or accelerator.num_processes > 1):
        where = f"{accelerator.num_processes} process(es) on {accelerator.device.type}"
        raise DilaError(f"graph records the steps of one process on CUDA, and this is {where}; leave graph out")
    return accelerator


def newest_of_all(accelerator: Any, out: Path) -> Path | None:
    """The newest checkpoint of a run, which all processes must see.

    Raises:
        DilaError: they do not, as on machines that share no disk.
    """
    from accelerate.utils import gather_object

    accelerator.wait_for_everyone()  # the first one may be tidying up
    last = newest(out)
    seen = gather_object([last and last.name])
    if len(set(seen)) > 1:
        raise DilaError(
            f"the processes of this run find different checkpoints in {out} ({', '.join(map(str, seen))}); give an "
            "--out that all machines share"
        )
    return last


def agreed(accelerator: Any, *wishes: bool) -> list[bool]:
    """Whether any process wishes each: all must stop and save at the same step."""
    if accelerator.num_processes == 1:
        return list(wishes)
    flags = torch.tensor([float(wish) for wish in wishes], device=accelerator.device)
    return (accelerator.reduce(flags, reduction="sum") > 0).tolist()
