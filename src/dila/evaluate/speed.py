"""Cost of a piece of work: seconds, operations, share of the machine's peak, and memory.

Each `Work` is measured in its own process, so that its peak memory is its own; `dila bench` starts the processes.
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
        kind: "train" and "train_rollout" are an optimiser step of the first and second stage; "rollout" predicts
            features under latent actions; "plan" computes costs of candidates in structure space from one context of
            two frames; "label" infers latent actions of clips.
        preset: size of the model.
        precision: "bf16" means autocast.
        batch: number of clips.
        frames: frames per clip; for rollouts and plans, predicted frames.
        candidates: candidates of a plan.
        recompute: training recomputes activations in the backward pass (gradient checkpointing).
        compiled: compile layers with torch.compile.
        graph: on CUDA, use a CUDA graph; in training for forward and backward, see `dila.train.recorded`.
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
    """Measured cost of a piece of work."""

    seconds: float
    """Minimum over the repeats."""
    tflop: float
    """Matrix products and convolutions of one run, forward and backward, in 10^12 operations."""
    peak_gib: float
    """Peak memory of the whole process (CPU) or of the device (CUDA)."""


class Ready(NamedTuple):
    """A prepared piece of work."""

    run: Callable[[], Any]
    check: Callable[[], Tensor]
    """Returns its numbers without dropout, to compare implementations."""


CONTEXT = 2
"""Number of context frames of a plan."""


def make(work: Work, device: torch.device) -> tuple[DiLA, Tensor]:
    """Return model and features, deterministic and independent of the precision."""
    torch.manual_seed(0)
    model = DiLA(preset(work.preset))
    _wake(model)
    config = model.config
    frames = {"rollout": 1, "plan": CONTEXT}.get(work.kind, work.frames)
    e = torch.randn(work.batch, frames, *config.grid, config.feature_dim)
    return model.to(device), e.to(device)


def actions(work: Work, model: DiLA, e: Tensor) -> Float[Tensor, "B K Dz"]:
    """Random latent actions of each clip, or of each candidate of a plan."""
    count = work.candidates if work.kind == "plan" else work.batch
    return torch.randn(count, work.frames, model.config.action_dim, generator=torch.Generator().manual_seed(1)).to(e)


def ready(work: Work, model: DiLA, e: Tensor) -> Ready:
    """Prepare the work as the package does it elsewhere."""
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
    """Return the squared distance of each candidate's structure to a goal, from one shared context."""
    layout = Layout(model)
    state, found = layout.start(context), []
    for part in in_turn(z, at_once(context)):
        moved = steps(layout, repeat_state(state, len(part)), part)
        found.append(torch.stack([(s_hat.float() - goal).square().mean((1, 2, 3)) for _, s_hat in moved]).mean(0))
    return torch.cat(found)


def measure(work: Work, device: torch.device, repeats: int = 3) -> Measured:
    """Run the work once to warm up, ``repeats`` times for timing, and once (eagerly) to count operations."""
    run = ready(work, *make(work, device)).run
    run()
    seconds = min(timed(run, device) for _ in range(repeats))
    peak = peak_gib(device)
    if work.compiled or work.graph:  # the counter cannot see operations inside
        del run
        gc.collect()
        run = ready(replace(work, compiled=False, graph=False), *make(work, device)).run
    return Measured(seconds, count_tflop(run), peak)


def count_tflop(run: Callable[[], Any]) -> float:
    """Count matrix products and convolutions of one run, in 10^12 operations, with corrections to PyTorch's counter.

    That counter covers attention on CUDA only, and ignores groups in the gradient of a convolution, which makes a
    depthwise one several hundred times too expensive.
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
    """Each requested gradient (input, weight) costs as much as the forward convolution."""
    asked = rest[-1]
    return 2 * prod(g) * prod(weight[1:]) * sum(asked[:2])


def measure_apart(work: Work, device: torch.device, repeats: int = 3) -> Measured:
    """Run `measure` in a fresh process, so that the peak memory is that of this work alone."""
    return apart(measure, work, device, repeats)


def apart(call: Callable[..., Made], *arguments: Any) -> Made:
    """Run a call in a fresh process and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def grown(work: Work) -> dict[str, list[Work]]:
    """Return the same work at several sizes of each dimension that it scales with."""
    along: dict[str, tuple[int, ...]] = {"batch": (1, 2, 4), "frames": (4, 8, 16)}
    if work.kind == "plan":
        along = {"candidates": (16, 64, 256), "frames": (5, 10, 20)}
    return {name: [replace(work, **{name: size}) for size in sizes] for name, sizes in along.items()}


class Reading(NamedTuple):
    """Throughput of reading and encoding in one process."""

    decoded: float
    """Decoded frames per second of the example clip."""
    encoded: float
    """Frames per second of the embedded encoder at 128 pixels."""


def measure_reading(device: torch.device, repeats: int = 3) -> Reading:
    """Measure decoding and encoding of the example clip."""
    (episode,) = open_corpus(example_clips()[0]).episodes
    index = list(range(len(episode.times)))
    frames = episode.read(index)
    encoder = build_encoder({"name": "efficientnet-lite0", "size": 128}).to(device)
    encode = lambda: encoder.encode(frames[None])  # noqa: E731
    encode()
    seconds = [min(timed(run, device) for _ in range(repeats)) for run in (lambda: episode.read(index), encode)]
    return Reading(*(len(index) / each for each in seconds))


def matmul_peak(precision: Precision, device: torch.device, size: int = 2048) -> float:
    """Return 10^12 operations per second of a large square matrix product, the machine's practical peak."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    run = lambda: [a @ a for _ in range(10)]  # noqa: E731
    run()
    return 10 * 2 * size**3 / min(timed(run, device) for _ in range(3)) / 1e12


def peak_gib(device: torch.device) -> float:
    """Peak memory of this process so far, or of its CUDA device."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def describe(work: Work, measured: Measured, peak: float) -> dict[str, Any]:
    """Return a measurement as one JSON row."""
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
    """Randomise parameters that start at zero, which would give all candidates the same future."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call, including its work on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
