"""Steps whose gradient stands out, and the same numbers from the same run."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from statistics import median
from typing import Any

import torch

from dila.errors import DilaError

WINDOW = 100
"""Gradient norms that a step is held against: of the last steps that counted."""
KNOWN = 20
"""As many have to be known before any stands out."""


class Spikes:
    """Steps that are left out because their gradient's norm is many times the usual one, or not finite.

    One clip can throw weights far enough that thousands of steps are lost. What is left out is counted, and a run that
    leaves out step after step ends. Saved with a checkpoint, so that a resumed run judges as before.

    Args:
        factor: times the median norm from which a step is left out; None leaves out none.
        patience: steps left out in a row that end the run.
    """

    def __init__(self, factor: float | None, patience: int):
        self.factor, self.patience = factor, patience
        self.norms: list[float] = []
        self.skipped = 0
        self.row = 0

    def stands_out(self, norm: float, step: int) -> bool:
        """Whether the step with this gradient norm is to be left out.

        Raises:
            DilaError: as `patience` in a row.
        """
        if self.factor is None:
            return False
        usual = median(self.norms) if len(self.norms) >= KNOWN else float("inf")
        if isfinite(norm) and not norm > self.factor * usual:
            self.norms, self.row = [*self.norms[1 - WINDOW :], norm], 0
            return False
        self.skipped, self.row = self.skipped + 1, self.row + 1
        if self.row >= self.patience:
            raise DilaError(
                f"{self.row} steps in a row up to step {step} had gradients over {self.factor:g} times the usual "
                f"{usual:.3g} or not finite, the last {norm:.3g}; lower the learning rate in another folder"
            )
        return True

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        return {"norms": list(self.norms), "skipped": self.skipped, "row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; empty for a checkpoint from before there were any."""
        self.norms, self.skipped, self.row = state.get("norms", []), state.get("skipped", 0), state.get("row", 0)


def not_finite(losses: Mapping[str, float], grad: float) -> str | None:
    """What of a step is not finite, with its verb: losses by their names, else the gradient; None where all is."""
    named = [name for name, value in losses.items() if not isfinite(value) and name != "total"]
    if not named and isfinite(losses["total"]) and isfinite(grad):
        return None
    return f"the loss {', '.join(named)} is" if named else "the norm of the gradient is"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Only algorithms that give the same bits each time, where wanted; an operation that has none raises.

    On the CPU with one thread runs are so anyway. https://docs.pytorch.org/docs/stable/notes/randomness.html.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's products are first used
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
