"""Distribution of a learner over processes: replicated (DDP) or sharded (FSDP2).

With FSDP2 (Zhao et al. 2023; torch's ``fully_shard``), each process keeps only its shard of weights and moments between
steps, and the weights are gathered for each step. Losses are the same. Checkpoints are always unsharded, so each kind
loads those of the other.

The learner is sharded as one unit, not per layer, because models read weights of layers outside the layer's forward.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from dila.interop.models import build
from dila.nn.bottleneck import Codebook
from dila.shapes import Float, Tensor
from dila.train.learner import Learner


class Whole:
    """The learner is replicated on every process (DDP).

    Args:
        accelerator: an `accelerate.Accelerator`.
    """

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator

    def prepare(self, learner: Learner) -> nn.Module:
        """Wrap the learner; returns the module to call instead of it."""
        return self.accelerator.prepare(learner)

    @contextmanager
    def step(self, learner: nn.Module) -> Iterator[None]:
        """Wrap an optimiser step: before it, codebooks replace dead entries if due; after it, they count the step.

        All processes make the same replacement, from the usage summed over processes and the inputs of rank 0. It is
        done here because writes to a weight during the forward pass are lost if the weight is sharded.
        """
        books = [module for module in learner.modules() if isinstance(module, Codebook)]
        for book in books:
            if book.is_due():
                self._replace_dead(book)
        before = [book.usage.clone() for book in books]
        yield
        for book, old in zip(books, before, strict=True):
            book.usage.copy_(old + self.accelerator.reduce(book.usage - old, reduction="sum"))
            book.batches += 1

    @torch.no_grad()
    def _replace_dead(self, book: Codebook) -> None:
        from accelerate.utils import broadcast

        broadcast(book.sample)
        book.entries.copy_(_parted(book.without_dead(_joined(book.entries)), book.entries))
        book.usage.zero_()

    def waiting(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Context without gradient synchronisation, for all parts of a batch but the last."""
        return self.accelerator.no_sync(wrapped)

    def clip(self, learner: Learner, bound: float) -> Float[Tensor, ""]:
        """Clip the gradient norm; returns the norm before clipping."""
        return nn.utils.clip_grad_norm_(learner.model.parameters(), bound)

    def gather(self, learner: Learner) -> Learner:
        """Return a learner with complete weights; must be called on every process."""
        return learner

    def moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the complete state of the optimiser; must be called on every process."""
        return optimiser.state_dict()

    def put(
        self, learner: Learner, optimiser: torch.optim.Optimizer, whole: Learner, moments: Mapping[str, Any]
    ) -> None:
        """Load the weights of a complete learner, as `gather` returns it, and complete moments."""
        optimiser.load_state_dict(dict(moments))


class Parts(Whole):
    """Every tensor is sharded over the processes (FSDP2)."""

    def prepare(self, learner: Learner) -> nn.Module:
        """Shard the learner in place and return it."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        learner.to(self.accelerator.device)
        fully_shard(learner, mesh=mesh)
        return learner

    def waiting(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Synchronise after each part of a batch: unsynchronised gradients would be unsharded."""
        return nullcontext()

    def clip(self, learner: Learner, bound: float) -> Float[Tensor, ""]:
        """Clip the gradient norm over all processes."""
        return _joined(super().clip(learner, bound))

    def gather(self, learner: Learner) -> Learner:
        """Return an unsharded copy of the learner."""
        with torch.device("meta"):
            whole = Learner(build(learner.model.config), learner.objective, learner.precision, 0)
        for name, parameter in learner.named_parameters():
            _set(whole, name, nn.Parameter(_joined(parameter.detach()), parameter.requires_grad))
        for name, buffer in learner.named_buffers():
            _set(whole, name, buffer.clone())
        return whole

    def moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the unsharded state of the optimiser."""
        state = optimiser.state_dict()
        joined = {place: {name: _joined(value) for name, value in own.items()} for place, own in state["state"].items()}
        return state | {"state": joined}

    def put(
        self, learner: Learner, optimiser: torch.optim.Optimizer, whole: Learner, moments: Mapping[str, Any]
    ) -> None:
        """Load this process's shards."""
        with torch.no_grad():
            for mine, other in zip(learner.parameters(), whole.parameters(), strict=True):
                mine.copy_(_parted(other.detach(), mine))
            for mine, other in zip(learner.buffers(), whole.buffers(), strict=True):
                mine.copy_(other)
        held = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        parted = {
            place: {name: _parted(value, held[place]) for name, value in own.items()}
            for place, own in moments["state"].items()
        }
        optimiser.load_state_dict(dict(moments) | {"state": parted})


def spread_of(shard: bool, accelerator: Any) -> Whole:
    """Choose how to distribute a learner; a single process is never sharded."""
    return Parts(accelerator) if shard and accelerator.num_processes > 1 else Whole(accelerator)


def _joined(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _parted(value: Tensor, like: Any) -> Tensor:
    """Shard a tensor like `like`; counters are kept, and so is everything if `like` is not sharded."""
    from torch.distributed.tensor import distribute_tensor

    if value.shape != like.shape or not hasattr(like, "device_mesh"):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, tensor)
