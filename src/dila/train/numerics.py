"""Detection of gradient spikes and non-finite losses, and deterministic algorithms."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from statistics import median
from typing import Any

import torch

from dila.errors import DilaError

WINDOW = 100
"""Number of gradient norms in the running median."""
KNOWN = 20
"""Number of norms needed before a finite one can count as a spike."""


class Spikes:
    """Decides which steps to skip because their gradient norm is far above the median, or not finite.

    A single clip can move the weights so far that thousands of steps are lost. Skipped steps are counted, and too many
    in a row end the run. The state is saved in checkpoints.

    Args:
        factor: skip steps whose norm exceeds this multiple of the median; None skips none.
        patience: number of consecutive skipped steps that ends the run.
    """

    def __init__(self, factor: float | None, patience: int):
        self.factor, self.patience = factor, patience
        self.norms: list[float] = []
        self.skipped = 0
        self.row = 0

    def stands_out(self, norm: float, step: int) -> bool:
        """Whether to skip the step with this gradient norm.

        Raises:
            DilaError: `patience` steps in a row were skipped.
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
                f"{self.row} steps in a row up to step {step} had gradient norms that were not finite or above "
                f"{self.factor:g} times the median ({usual:.3g}), the last {norm:.3g}; use a lower learning rate, in "
                "another folder"
            )
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"norms": list(self.norms), "skipped": self.skipped, "row": self.row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`; older checkpoints have an empty one."""
        self.norms, self.skipped, self.row = state.get("norms", []), state.get("skipped", 0), state.get("row", 0)


def not_finite(losses: Mapping[str, float], grad: float) -> str | None:
    """What is not finite, for a message: the losses by name, else the gradient norm; None if all is finite."""
    named = [name for name, value in losses.items() if not isfinite(value) and name != "total"]
    if not named and isfinite(losses["total"]) and isfinite(grad):
        return None
    return f"the loss {', '.join(named)} is" if named else "the norm of the gradient is"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use only bit-reproducible algorithms inside the block, if wanted; operations without one raise an error.

    CPU runs with one thread are reproducible without it. https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first use of cuBLAS
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
