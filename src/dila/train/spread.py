"""How a learner lies on the processes of a run: whole on each of them, or every tensor in parts.

Whole is DDP. In parts is FSDP2 (Zhao et al. 2023; torch's ``fully_shard``): between two steps a process holds its share
of weights and moments alone, and the weights are put together for each step. Losses are the same, and checkpoints are
whole either way, so that one loads under the other.

The learner is one unit, not one a layer: models here read parts of their layers outside a layer's own forward.
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
    """All of the learner on every process.

    Args:
        accelerator: of accelerate.
    """

    def __init__(self, accelerator: Any):
        self.accelerator = accelerator

    def prepare(self, learner: Learner) -> nn.Module:
        """The module to call in place of the learner."""
        return self.accelerator.prepare(learner)

    @contextmanager
    def step(self, learner: nn.Module) -> Iterator[None]:
        """Around an optimiser step: before it codebooks replace what is dead, where due; after it they count one step.

        All processes replace alike: by the uses of all of them, and with inputs of the first one. It is done here
        because what a forward writes to a weight is lost where that lies in parts.
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
        """While more parts of a batch follow: gradients stay where they are."""
        return self.accelerator.no_sync(wrapped)

    def clip(self, learner: Learner, bound: float) -> Float[Tensor, ""]:
        """Bound the norm of the gradient; returns what it was."""
        return nn.utils.clip_grad_norm_(learner.model.parameters(), bound)

    def gather(self, learner: Learner) -> Learner:
        """A learner with all weights; every process must ask."""
        return learner

    def moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state, whole; every process must ask."""
        return optimiser.state_dict()

    def put(
        self, learner: Learner, optimiser: torch.optim.Optimizer, whole: Learner, moments: Mapping[str, Any]
    ) -> None:
        """Go on with the weights of what `gather` gave, and with such moments."""
        optimiser.load_state_dict(dict(moments))


class Parts(Whole):
    """A part of every tensor on each process."""

    def prepare(self, learner: Learner) -> nn.Module:
        """Divide the learner."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.accelerator.device.type, (self.accelerator.num_processes,))
        learner.to(self.accelerator.device)
        fully_shard(learner, mesh=mesh)
        return learner

    def waiting(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Each part of a batch is shared out at once: gradients that wait would be whole ones."""
        return nullcontext()

    def clip(self, learner: Learner, bound: float) -> Float[Tensor, ""]:
        """Bound the norm of the gradient over all processes."""
        return _joined(super().clip(learner, bound))

    def gather(self, learner: Learner) -> Learner:
        """A copy of the learner with whole tensors, which no optimiser knows."""
        with torch.device("meta"):
            whole = Learner(build(learner.model.config), learner.objective, learner.precision, 0)
        for name, parameter in learner.named_parameters():
            _set(whole, name, nn.Parameter(_joined(parameter.detach()), parameter.requires_grad))
        for name, buffer in learner.named_buffers():
            _set(whole, name, buffer.clone())
        return whole

    def moments(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state as one process alone would have it."""
        state = optimiser.state_dict()
        joined = {place: {name: _joined(value) for name, value in own.items()} for place, own in state["state"].items()}
        return state | {"state": joined}

    def put(
        self, learner: Learner, optimiser: torch.optim.Optimizer, whole: Learner, moments: Mapping[str, Any]
    ) -> None:
        """Take this process's parts."""
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
    """How a run's learner is laid out; one process alone has all of it."""
    return Parts(accelerator) if shard and accelerator.num_processes > 1 else Whole(accelerator)


def _joined(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _parted(value: Tensor, like: Any) -> Tensor:
    """A whole tensor as the part of it that lies where `like` does; counters, and where all lies there, stay whole."""
    from torch.distributed.tensor import distribute_tensor

    if value.shape != like.shape or not hasattr(like, "device_mesh"):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, tensor)
