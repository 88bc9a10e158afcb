"""Work of fixed shape without Python: recorded once as a CUDA graph, then replayed.

A rollout launches hundreds of small kernels a step, and at batch 1 the processor launches them more slowly than the
device runs them. Replayed, the whole rollout is one launch
(https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from collections.abc import Callable

import torch

from dila.errors import DilaError
from dila.shapes import Tensor


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
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.no_grad():
            for _ in range(2):  # libraries choose their kernels, caches fill
                function(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph), torch.no_grad():
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function of these inputs, in memory of its own.

        Raises:
            DilaError: a shape that was not recorded.
        """
        for kept, given in zip(self.inputs, inputs, strict=True):
            if kept.shape != given.shape:
                raise DilaError(f"recorded for shape {list(kept.shape)}, called with {list(given.shape)}; record anew")
            kept.copy_(given)
        self.graph.replay()
        return self.output.clone()
