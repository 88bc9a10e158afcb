"""What work costs: seconds, operations, share of what the machine can do, and memory, by size of the work.

Each measurement is one `Work` in one process, so that its peak of memory is its own; `dila bench` starts the processes.
"""

import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from dila.data import open_corpus
from dila.data.examples import example_clips
from dila.imagine.graph import Graphed
from dila.imagine.layout import Layout
from dila.imagine.rollout import rollout, steps
from dila.model.dila import DiLA, repeat_state
from dila.model.presets import preset
from dila.nn import kernels
from dila.planning.dynamics import at_once, in_turn
from dila.shapes import Float, Tensor
from dila.train.learner import Learner, arrange, compile_layers, make_optimiser
from dila.train.objectives import Batch, OneStep, Rollout
from dila.train.recorded import Recorded
from dila.train.run import Optimiser, Precision
from dila.vision import build_encoder

Made = TypeVar("Made")
Kind = Literal["train", "train_rollout", "rollout", "plan", "label"]
KINDS: tuple[Kind, ...] = ("train", "train_rollout", "rollout", "plan", "label")


@dataclass(frozen=True)
class Work:
    """One piece of work on random features.

    Args:
        kind: "train" and "train_rollout", an optimiser step of the first and the second stage; "rollout", features
            under latent actions; "plan", costs of candidates in structure space from one context of two frames;
            "label", latent actions of clips.
        preset: the model's sizes.
        precision: "bf16" is autocast.
        batch: clips.
        frames: of a clip; of a rollout or plan, frames imagined.
        candidates: of a plan.
        recompute: training keeps each layer's input alone and runs the layer again backward.
        compiled: layers through torch.compile.
        graph: on CUDA, as a CUDA graph; of a training step forward and backward, see `dila.train.recorded`.
    """

    kind: Kind
    preset: str = "base"
    precision: Precision = "bf16"
    batch: int = 1
    frames: int = 16
    candidates: int = 16
    recompute: bool = False
    compiled: bool = False
    graph: bool = False


class Measured(NamedTuple):
    """What a piece of work cost."""

    seconds: float
    """The fastest of the repeats."""
    tflop: float
    """Products and convolutions of one run, forward and backward, in 10^12 operations."""
    peak_gib: float
    """Of memory, over the whole process (CPU) or the device (CUDA)."""


class Ready(NamedTuple):
    """Work that only has to be called, and what it gives."""

    run: Callable[[], Any]
    check: Callable[[], Tensor]
    """Its numbers without dropout, to be compared between implementations."""


CONTEXT = 2
"""Frames that a plan starts from."""


def make(work: Work, device: torch.device) -> tuple[DiLA, Tensor]:
    """The model and the features, the same for the same work whatever the precision."""
    torch.manual_seed(0)
    model = DiLA(preset(work.preset))
    _wake(model)
    config = model.config
    frames = {"rollout": 1, "plan": CONTEXT}.get(work.kind, work.frames)
    e = torch.randn(work.batch, frames, *config.grid, config.feature_dim)
    return model.to(device), e.to(device)


def actions(work: Work, model: DiLA, e: Tensor) -> Float[Tensor, "B K Dz"]:
    """Latent actions to follow: of each clip, or of each candidate of a plan."""
    count = work.candidates if work.kind == "plan" else work.batch
    return torch.randn(count, work.frames, model.config.action_dim, generator=torch.Generator().manual_seed(1)).to(e)


def ready(work: Work, model: DiLA, e: Tensor) -> Ready:
    """The work as this package does it."""
    if work.kind in ("train", "train_rollout"):
        return _training(work, model, e)
    if work.compiled:
        compile_layers(model)
    model.eval()
    autocast = _autocast(work, e)
    z = actions(work, model, e)
    goal = torch.zeros(*model.config.grid, model.config.structure_dim, device=e.device)
    verbs: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {
        "rollout": lambda e, z: rollout(model, e, z),
        "plan": lambda e, z: plan_costs(model, e, z, goal),
        "label": lambda e, z: model.infer(e),
    }

    def verb(e: Tensor, z: Tensor) -> Tensor:
        with torch.no_grad(), autocast():
            return verbs[work.kind](e, z).float()

    done = Graphed(verb, e, z) if work.graph and e.is_cuda else verb
    run = partial(done, e, z)
    return Ready(run, run)


def plan_costs(
    model: DiLA, context: Float[Tensor, "1 T H W D"], z: Float[Tensor, "S K Dz"], goal: Float[Tensor, "H W Ds"]
) -> Float[Tensor, " S"]:
    """Squared distance of each candidate's structures to a goal: one context for all, nothing drawn."""
    layout = Layout(model)
    state, found = layout.start(context), []
    for part in in_turn(z, at_once(context)):
        moved = steps(layout, repeat_state(state, len(part)), part)
        found.append(torch.stack([(s_hat.float() - goal).square().mean((1, 2, 3)) for _, s_hat in moved]).mean(0))
    return torch.cat(found)


def measure(work: Work, device: torch.device, repeats: int = 3) -> Measured:
    """Run the work, once to warm up, ``repeats`` times on the clock, and once to count, as nothing but single calls."""
    run = ready(work, *make(work, device)).run
    run()
    seconds = min(timed(run, device) for _ in range(repeats))
    peak = peak_gib(device)
    if work.compiled or work.graph:  # which the counter does not see into
        del run
        gc.collect()
        run = ready(replace(work, compiled=False, graph=False), *make(work, device)).run
    return Measured(seconds, count_tflop(run), peak)


def count_tflop(run: Callable[[], Any]) -> float:
    """Products and convolutions of one run, in 10^12 operations: what PyTorch's counter does not know or counts amiss.

    It knows CUDA's attention alone, and counts the gradient of a convolution by groups as if it had none, a depthwise
    one many hundred times over.
    """
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    ops: Any = torch.ops
    counts: dict[Any, Callable[..., int]] = {
        ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
        ops.aten.convolution_backward: _convolution_backward,
    }
    if kernels.attend is not None:
        counts[ops.dila.attend] = lambda q, k, *_, **__: 4 * prod(q) * k[1]
        counts[ops.dila.attend_backward] = lambda q, k, *_, **__: 10 * prod(q) * k[1]
        counts[ops.dila.attend_back] = lambda q, *_, **__: 4 * prod(q) * q[1]
        counts[ops.dila.attend_back_backward] = lambda q, *_, **__: 8 * prod(q) * q[1]
    with FlopCounterMode(display=False, custom_mapping=counts) as counter:
        run()
    return counter.get_total_flops() / 1e12


def _convolution_backward(g: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **_: Any) -> int:
    """The gradients of input and weight, where they are asked for, cost what the convolution itself costs."""
    asked = rest[-1]
    return 2 * prod(g) * prod(weight[1:]) * sum(asked[:2])


def measure_apart(work: Work, device: torch.device, repeats: int = 3) -> Measured:
    """`measure` in a fresh process, whose peak of memory is that of this work alone."""
    return apart(measure, work, device, repeats)


def apart(call: Callable[..., Made], *arguments: Any) -> Made:
    """What the call gives in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def grown(work: Work) -> dict[str, list[Work]]:
    """The same work along each dimension that it grows in."""
    along: dict[str, tuple[int, ...]] = {"batch": (1, 2, 4), "frames": (4, 8, 16)}
    if work.kind == "plan":
        along = {"candidates": (16, 64, 256), "frames": (5, 10, 20)}
    return {name: [replace(work, **{name: size}) for size in sizes] for name, sizes in along.items()}


class Reading(NamedTuple):
    """What comes into a model, in one process."""

    decoded: float
    """Frames a second of the example clip."""
    encoded: float
    """Frames a second of the embedded encoder, at 128 pixels."""


def measure_reading(device: torch.device, repeats: int = 3) -> Reading:
    """Decode the example clip, and encode it."""
    (episode,) = open_corpus(example_clips()[0]).episodes
    index = list(range(len(episode.times)))
    frames = episode.read(index)
    encoder = build_encoder({"name": "efficientnet-lite0", "size": 128}).to(device)
    encode = lambda: encoder.encode(frames[None])  # noqa: E731
    encode()
    seconds = [min(timed(run, device) for _ in range(repeats)) for run in (lambda: episode.read(index), encode)]
    return Reading(*(len(index) / each for each in seconds))


def matmul_peak(precision: Precision, device: torch.device, size: int = 2048) -> float:
    """10^12 operations a second of a large square product: what the machine can do."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    run = lambda: [a @ a for _ in range(10)]  # noqa: E731
    run()
    return 10 * 2 * size**3 / min(timed(run, device) for _ in range(3)) / 1e12


def peak_gib(device: torch.device) -> float:
    """The most memory that this process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def describe(work: Work, measured: Measured, peak: float) -> dict[str, Any]:
    """One JSON row."""
    rate = measured.tflop / measured.seconds
    return asdict(work) | measured._asdict() | {"tflop_per_second": rate, "share_of_matmul_peak": rate / peak}


def _training(work: Work, model: DiLA, e: Tensor) -> Ready:
    objective = OneStep() if work.kind == "train" else Rollout()
    learner = Learner(model, objective, work.precision)
    arrange(model, e.device, work.recompute, work.compiled)
    optimiser = make_optimiser(model, Optimiser())
    recorded = Recorded(learner.train(), Batch(e)) if work.graph and e.is_cuda else None

    def run() -> None:
        if recorded is None:
            learner.train()(e).total.backward()
        else:
            recorded(Batch(e))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 6.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=recorded is None)

    def check() -> Tensor:
        learner.eval()
        total = learner(e).total
        total.backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        optimiser.zero_grad(set_to_none=True)
        return torch.stack([total.detach(), torch.stack(norms).norm()])

    return Ready(run, check)


def _autocast(work: Work, e: Tensor) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: torch.autocast(e.device.type, torch.bfloat16, enabled=work.precision == "bf16")


@torch.no_grad()
def _wake(model: DiLA) -> None:
    """Maps that start at zero would make every candidate the same."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, all its work on the device done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
