"""A training step without Python: forward and backward of a batch recorded once as a CUDA graph, then replayed.

A step launches thousands of kernels, and a processor launches the many small ones more slowly than a GPU runs them
(https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture). Clipping and the optimiser's step stay
outside: a learning rate and a step that is left out are decided anew each time.
"""

import torch

from dila.errors import DilaError
from dila.imagine.graph import record, refill
from dila.nn.bottleneck import Codebook
from dila.train.learner import Learner
from dila.train.objectives import Batch, Outcome


def recordable(learner: Learner) -> bool:
    """Whether nothing in it decides on values, as codebooks do, which count their codes."""
    return not any(isinstance(module, Codebook) for module in learner.modules())


class Recorded:
    """Outcome and gradients of a learner under its present objective, for batches of one shape.

    Where a batch is one of several parts of an optimiser step, gradients are added to those that the weights hold, as
    `torch.Tensor.backward` does; where it is the whole, they are written over them, which needs no sums. Between steps
    they may be set to zero, but not to None. Weights are read anew in every replay.

    Args:
        learner: on CUDA, in training mode.
        example: a batch of the shapes to come.
        share: what the loss is multiplied by, one over the parts of an optimiser step.

    Raises:
        DilaError: the learner is not on CUDA, or is not `recordable`.
    """

    def __init__(self, learner: Learner, example: Batch, share: float = 1.0):
        if not example.e.is_cuda:
            raise DilaError("a training step is recorded on CUDA; move model and batch there, or leave graph out")
        if not recordable(learner):
            raise DilaError("a model with a codebook counts its codes and cannot be recorded; leave graph out")
        self.learner, self.share = learner, share
        self.batch = example._replace(
            **{name: part.clone() for name, part in example._asdict().items() if part is not None}
        )
        torch.cuda.empty_cache()  # a stream takes memory of its own
        with torch.random.fork_rng([example.e.device]):  # a run that goes on records again, and draws the same dropout
            self.graph, self.outcome = record(self._run)
        learner.zero_grad(set_to_none=False)

    def __call__(self, batch: Batch) -> Outcome:
        """The outcome of this batch; losses in memory of their own, what is watched until the next call.

        Raises:
            DilaError: a shape that was not recorded.
        """
        for kept, given in zip(self.batch, batch, strict=True):
            if kept is not None and given is not None:
                refill(kept, given)
        self.graph.replay()
        losses = {name: loss.clone() for name, loss in self.outcome.losses.items()}
        return self.outcome._replace(total=self.outcome.total.clone(), losses=losses)

    def _run(self) -> Outcome:
        if self.share == 1.0:
            self.learner.zero_grad(set_to_none=True)
        outcome: Outcome = self.learner(*self.batch)
        (outcome.total * self.share).backward()
        return outcome._replace(
            total=outcome.total.detach(), losses={name: loss.detach() for name, loss in outcome.losses.items()}
        )
