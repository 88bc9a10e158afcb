"""Training steps as CUDA graphs: forward and backward pass are recorded once and then replayed.

A step launches thousands of small kernels, and launching them takes longer than running them
(https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture). Clipping and the optimiser step are not
recorded, because the learning rate changes and steps may be skipped.
"""

import torch

from dila.errors import DilaError
from dila.imagine.graph import record, refill
from dila.nn.bottleneck import Codebook
from dila.train.learner import Learner
from dila.train.objectives import Batch, Outcome


def recordable(learner: Learner) -> bool:
    """Whether a learner can be recorded; codebooks cannot, because they count their codes."""
    return not any(isinstance(module, Codebook) for module in learner.modules())


class Recorded:
    """Recorded forward and backward pass of a learner under its current objective, for batches of one shape.

    If a batch is one of several parts of an optimiser step, gradients are accumulated as by `torch.Tensor.backward`;
    otherwise they are overwritten, which is faster. Between steps, gradients may be set to zero, but not to None. Every
    replay reads the current weights.

    Args:
        learner: learner on CUDA, in training mode.
        example: batch with the shapes of later batches.
        share: factor of the loss, 1 / number of parts of an optimiser step.

    Raises:
        DilaError: the learner is not on CUDA, or is not `recordable`.
    """

    def __init__(self, learner: Learner, example: Batch, share: float = 1.0):
        if not example.e.is_cuda:
            raise DilaError("graph needs CUDA; move model and batch there, or remove graph")
        if not recordable(learner):
            raise DilaError("a model with a codebook cannot be recorded, because it counts its codes; remove graph")
        self.learner, self.share = learner, share
        self.batch = example._replace(
            **{name: part.clone() for name, part in example._asdict().items() if part is not None}
        )
        torch.cuda.empty_cache()  # the capture stream has its own memory pool
        with torch.random.fork_rng([example.e.device]):  # recording again after a resume must not change dropout
            self.graph, self.outcome = record(self._run)
        learner.zero_grad(set_to_none=False)

    def __call__(self, batch: Batch) -> Outcome:
        """Replay on a batch. Losses are copies; ``s`` and ``z`` are valid until the next call.

        Raises:
            DilaError: the shapes differ from the recorded ones.
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
