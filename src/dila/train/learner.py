"""Model and objective in one module, which DDP and FSDP can wrap; how layers run; the optimiser."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dila.interop.models import AnyModel
from dila.nn.feedforward import ResMLP
from dila.nn.real_actions import read_raw, read_standardised
from dila.shapes import Actions, Features, Float, Tensor
from dila.train.memory import give_back, hold_on
from dila.train.objectives import Batch, Outcome
from dila.train.run import AnyObjective, Optimiser, Precision

_log = logging.getLogger(__name__)


class Learner(nn.Module):
    """A model with the objective of the current stage.

    Real actions are standardised first, because the action encoder's first layer would otherwise have to learn their
    units; `raw_actions` folds the standardisation into that layer when the model is saved.
    """

    objective: AnyObjective

    def __init__(self, model: AnyModel, objective: AnyObjective, precision: Precision, action_dim: int | None = None):
        super().__init__()
        self.model = model
        self.objective = objective
        self.precision: Precision = precision
        self.action_mean: Tensor
        self.action_std: Tensor
        self.register_buffer("action_mean", torch.zeros(action_dim or 0), persistent=False)
        self.register_buffer("action_std", torch.ones(action_dim or 0), persistent=False)

    def forward(
        self,
        e: Features,
        a: Actions | None = None,
        place: Float[Tensor, " B"] | None = None,
        done: Float[Tensor, ""] | None = None,
    ) -> Outcome:
        """Compute the objective of a batch, under autocast."""
        if a is not None:
            a = (a.float() - self.action_mean) / self.action_std
        with torch.autocast(e.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.objective(self.model, Batch(e, a, place, done))  # type: ignore[arg-type] (`Run` checks that they fit)

    @torch.no_grad()
    def scale_actions(self, mean: Float[Tensor, " Da"], std: Float[Tensor, " Da"], *, trained: bool) -> None:
        """Set the mean and standard deviation of actions.

        With `trained`, the action encoder was trained on actions in their own units, and is converted.
        """
        assert self.model.action_encoder is not None
        self.action_mean.copy_(mean)
        self.action_std.copy_(std)
        if trained:
            read_standardised(self.model.action_encoder, self.action_mean, self.action_std)

    @contextmanager
    def raw_actions(self) -> Iterator[AnyModel]:
        """Yield the model converted to actions in their own units; afterwards its weights are restored bit for bit."""
        if self.model.action_encoder is None or not len(self.action_mean):
            yield self.model
            return
        kept = self.action_weights()
        read_raw(self.model.action_encoder, self.action_mean, self.action_std)
        try:
            yield self.model
        finally:
            self.load_action_weights(kept)

    def action_weights(self) -> dict[str, Tensor]:
        """The weights that `raw_actions` changes, mean and std; saved in checkpoints so that resuming is exact."""
        if self.model.action_encoder is None:
            return {}
        layer = self.model.action_encoder[0]
        tensors = {"weight": layer.weight, "bias": layer.bias, "mean": self.action_mean, "std": self.action_std}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}  # type: ignore[union-attr]

    @torch.no_grad()
    def load_action_weights(self, kept: dict[str, Tensor]) -> None:
        """Restore the output of `action_weights`."""
        if self.model.action_encoder is None:
            return
        layer: Any = self.model.action_encoder[0]
        layer.weight.copy_(kept["weight"])
        layer.bias.copy_(kept["bias"])
        self.action_mean.copy_(kept["mean"])
        self.action_std.copy_(kept["std"])


def arrange(model: nn.Module, device: torch.device, recompute: bool = False, compiled: bool = False) -> None:
    """Set up how layers run in training, and how a CPU process handles freed memory.

    Freed memory is returned to the system with `recompute`, which is used to save memory, and else kept (`hold_on`).
    """
    if recompute:
        recompute_layers(model)
    elif device.type == "cpu":
        hold_on()
    if compiled:
        compile_layers(model)


def recompute_layers(model: nn.Module) -> None:
    """Use gradient checkpointing: keep only each layer's input, and run the layer again in the backward pass.

    The gradients are the same, for about a third more work and much less memory
    (https://docs.pytorch.org/docs/stable/checkpoint.html). Freed memory is returned to the system (`give_back`), which
    saves a gigabyte at `base` size.
    """
    for layer in _counted(model, "recompute"):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    give_back(above=1 << 22)


def compile_layers(model: nn.Module) -> None:
    """Compile each layer separately with `torch.compile`.

    Layers of the same kind share one compilation, while compiling the whole model takes minutes
    (https://docs.pytorch.org/tutorials/recipes/regional_compilation.html). A layer that cannot be compiled runs eagerly
    with a warning. The compiler settings apply to the whole process, see `compiler_as_it_was`.
    """
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = 64  # rollouts use more shapes than the default limit of 8
    for layer in _counted(model, "compile"):
        layer.compile()


@contextmanager
def compiler_as_it_was(compiled: bool) -> Iterator[None]:
    """Restore the compiler settings that `compile_layers` changes; wrap everything that runs compiled layers."""
    if not compiled:
        yield
        return
    config = torch._dynamo.config
    with config.patch(suppress_errors=config.suppress_errors, recompile_limit=config.recompile_limit):
        yield


def _counted(model: nn.Module, field: str) -> list[nn.Module]:
    """Layers of the model; their number is logged."""
    layers = list(_layers(model))
    _log.info("%s: %d layers of %s", field, len(layers), type(model).__name__)
    if not layers:
        _log.warning("%s has no effect: %s has no layers from the dila package", field, type(model).__name__)
    return layers


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of each part of a model, and its MLPs outside layers; a part without layers counts as one.

    Modules with buffers are left out: they update state in the forward pass, which must not run twice.
    """
    for part in model.children():
        lists = (child for child in part.children() if isinstance(child, nn.ModuleList))
        own = [layer for layers in lists for layer in layers if _ours(layer) and any(layer.children())]
        beside = [child for child in part.children() if isinstance(child, nn.Sequential | ResMLP)]
        found = own + beside if own else [part] if _ours(part) else []
        yield from (layer for layer in found if not any(True for _ in layer.buffers()))


def _ours(module: nn.Module) -> bool:
    return type(module).__module__.startswith("dila.")


def make_optimiser(model: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """Build AdamW; vectors and ``A_log`` have no weight decay unless ``decay_norms`` is set."""
    decayed, kept = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim < 2 or name.endswith("A_log")
        (kept if spared and not settings.decay_norms else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, fused=True
    )
