"""Record work of fixed shape as a CUDA graph and replay it without Python overhead.

A rollout launches hundreds of small kernels per step; at batch 1 the CPU launches them more slowly than the GPU runs
them. A replay launches the whole rollout at once
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from dila.errors import DilaError
from dila.shapes import Tensor

Made = TypeVar("Made")


def record(function: Callable[[], Made]) -> tuple[torch.cuda.CUDAGraph, Made]:
    """Record a call as a graph; return it with the call's output, which every replay overwrites.

    The function runs three times first, so that layers compile, libraries choose kernels and caches fill.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Data loading threads keep running, and may allocate pinned memory.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = function()
    return graph, made


def refill(kept: Tensor, given: Tensor) -> None:
    """Copy an input into the tensor that the graph reads.

    Raises:
        DilaError: the shape differs from the recorded one.
    """
    if kept.shape != given.shape:
        raise DilaError(
            f"the CUDA graph was recorded for shape {list(kept.shape)} but called with {list(given.shape)}; record it "
            "again for this shape"
        )
    kept.copy_(given)


class Graphed:
    """A function of CUDA tensors, recorded for the shapes of an example. Results have no gradients.

    Replays read the current weights, so in-place training takes effect. The example's tensors are copied.

    Args:
        function: must not branch on values or synchronise: `rollout`, `plan_costs`, a model's `step`.
        example: tensors of the shapes and types of later calls.

    Raises:
        DilaError: a tensor is not on CUDA.
    """

    def __init__(self, function: Callable[..., Tensor], *example: Tensor):
        if any(not part.is_cuda for part in example):
            raise DilaError(
                "recording a CUDA graph needs CUDA tensors; move model and inputs to CUDA, or call it directly"
            )
        self.function = function  # keeps alive the weights and kernels that the graph reads
        self.inputs = tuple(part.detach().clone() for part in example)
        with torch.no_grad():
            self.graph, self.output = record(lambda: function(*self.inputs))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function of these inputs, as a new tensor.

        Raises:
            DilaError: the shape differs from the recorded one.
        """
        for kept, given in zip(self.inputs, inputs, strict=True):
            refill(kept, given)
        self.graph.replay()
        return self.output.clone()
