"""Work of fixed shape without Python: recorded once as a CUDA graph, then replayed.

A rollout launches hundreds of small kernels a step, and at batch 1 the processor launches them more slowly than the
device runs them. Replayed, the whole rollout is one launch
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from collections.abc import Callable
from typing import TypeVar

import torch

from dila.errors import DilaError
from dila.shapes import Tensor

Made = TypeVar("Made")


def record(function: Callable[[], Made]) -> tuple[torch.cuda.CUDAGraph, Made]:
    """A call as a graph, with what it gave, which every replay writes anew.

    It is called before: layers compile, libraries choose their kernels, caches fill.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Threads that read data go on meanwhile, and may ask for pinned memory.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        made = function()
    return graph, made


def refill(kept: Tensor, given: Tensor) -> None:
    """Put an input where the graph reads it.

    Raises:
        DilaError: a shape that was not recorded.
    """
    if kept.shape != given.shape:
        raise DilaError(f"recorded for shape {list(kept.shape)}, called with {list(given.shape)}; record anew")
    kept.copy_(given)


class Graphed:
    """A function of CUDA tensors, recorded for the shapes of an example. It keeps no gradients.

    Weights are read anew in every replay, so training in place goes on being seen; the example's tensors are copied.

    Args:
        function: makes no decision on values and waits for none of them: `rollout`, `plan_costs`, a model's `step`.
        example: tensors of the shapes and types that it will be called with.

    Raises:
        DilaError: a tensor that is not on CUDA.
    """

    def __init__(self, function: Callable[..., Tensor], *example: Tensor):
        if any(not part.is_cuda for part in example):
            raise DilaError(
                "a CUDA graph is recorded of CUDA tensors; move model and inputs there, or call it directly"
            )
        self.function = function  # whose weights and compiled kernels the graph goes on reading
        self.inputs = tuple(part.detach().clone() for part in example)
        with torch.no_grad():
            self.graph, self.output = record(lambda: function(*self.inputs))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function of these inputs, in memory of its own.

        Raises:
            DilaError: a shape that was not recorded.
        """
        for kept, given in zip(self.inputs, inputs, strict=True):
            refill(kept, given)
        self.graph.replay()
        return self.output.clone()
