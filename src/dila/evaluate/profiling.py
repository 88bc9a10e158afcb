"""Time profile of a piece of work: by part of the model (forward and backward), and by operation."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd import DeviceType, profiler_util
from torch.profiler import ProfilerActivity, profile, record_function

from dila.evaluate.speed import Work, apart, make, ready

_PART, _BACKWARD, _OPTIMISER = "part of the model: ", "autograd::engine::evaluate_function", "Optimizer.step"
REST = "the rest"
OPERATIONS = 12
"""Number of operations reported, slowest first."""


class Spent(NamedTuple):
    """GPU time of a part or operation; CPU time on a CPU."""

    name: str
    calls: int
    seconds: float
    share: float
    """Share of the total profiled time, 0 to 1."""


class Profile(NamedTuple):
    """Profile of one run by part and by operation, slowest first."""

    parts: tuple[Spent, ...]
    operations: tuple[Spent, ...]


def profile_apart(work: Work, device: torch.device) -> Profile:
    """Run `take_profile` in a fresh process, without CUDA graphs, which hide individual operations."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # keep the profiler's log lines out of the printed table
    return apart(_profile, work, device)


def _profile(work: Work, device: torch.device) -> Profile:
    work = replace(work, graph=False)
    model, e = make(work, device)
    return take_profile(ready(work, model, e).run, model, device)


def take_profile(run: Callable[[], Any], model: nn.Module, device: torch.device) -> Profile:
    """Run once to warm up, and once under PyTorch's profiler (https://docs.pytorch.org/docs/stable/profiler.html).

    Backward time is attributed to the part whose forward pass created the operation. The profiler's overhead inflates
    runs of many small operations, so shares are more reliable than seconds.

    Args:
        run: the work.
        model: its children are the parts.
        device: device whose time is measured.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _marked(model):
        run()
        with profile(activities=activities) as seen:
            run()
            if cuda:
                torch.cuda.synchronize(device)
    # Device time is included in the CPU event that launched it.
    events = [event for event in seen.events() or [] if event.device_type == DeviceType.CPU]
    return Profile(_parts(events, cuda), _operations(seen, cuda)[:OPERATIONS])


@contextmanager
def _marked(model: nn.Module) -> Iterator[None]:
    """Wrap each call of a child of the model in its own profiler range."""
    children = dict(model.named_children())
    own = {name: child.__dict__["forward"] for name, child in children.items() if "forward" in child.__dict__}
    for name, child in children.items():
        child.forward = _ranged(name, child.forward)
    try:
        yield
    finally:
        for child in children.values():
            del child.forward
        for name, forward in own.items():  # layers with recomputation override forward on the instance
            children[name].forward = forward


def _ranged(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    def ranged(*arguments: Any, **named: Any) -> Any:
        with record_function(_PART + name):
            return forward(*arguments, **named)

    return ranged


def _parts(events: Iterable[profiler_util.FunctionEvent], cuda: bool) -> tuple[Spent, ...]:
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    made_by: dict[int, str] = {}
    whole, backward = 0.0, []

    def count(name: str, event: profiler_util.FunctionEvent) -> None:
        seconds[name] += _total(event, cuda)
        calls[name] += 1

    for event in events:
        if event.cpu_parent is None:
            whole += _total(event, cuda)
        if event.name.startswith(_PART):
            name = event.name.removeprefix(_PART)
            count(f"{name}, forward", event)
            made_by |= {inner.sequence_nr: name for inner in _within(event) if inner.sequence_nr >= 0}
        elif event.name.startswith(_OPTIMISER):
            count("optimiser", event)
        elif event.name.startswith(_BACKWARD):
            backward.append(event)
    for event in backward:
        if event.sequence_nr in made_by:
            count(f"{made_by[event.sequence_nr]}, backward", event)
    told = [Spent(name, calls[name], spent, spent / whole) for name, spent in seconds.items()]
    rest = whole - sum(seconds.values())
    return (*sorted(told, key=lambda part: -part.seconds), Spent(REST, 0, rest, rest / whole))


def _within(event: profiler_util.FunctionEvent) -> Iterator[profiler_util.FunctionEvent]:
    for child in event.cpu_children:
        yield child
        yield from _within(child)


def _total(event: profiler_util.FunctionEvent, cuda: bool) -> float:
    return (event.device_time_total if cuda else event.cpu_time_total) / 1e6


def _operations(seen: profile, cuda: bool) -> tuple[Spent, ...]:
    rows = [
        (row.key, row.count, (row.self_device_time_total if cuda else row.self_cpu_time_total) / 1e6)
        for row in seen.key_averages()
        if row.device_type == DeviceType.CPU and not row.key.startswith((_PART, _BACKWARD, _OPTIMISER))
    ]
    whole = sum(spent for *_, spent in rows)
    return tuple(Spent(*row, row[2] / whole) for row in sorted(rows, key=lambda row: -row[2]))
