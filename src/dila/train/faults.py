"""What fails while a run goes on: clips that cannot be read, counted and listed, and processes that die."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dila.errors import DilaError, first_line

LOST = ("gloo", "nccl", "connection closed", "connection reset")
"""What errors of a process say that another one left alone."""
JUDGED = 100
"""Clips drawn before a share of them says anything."""


class LostWorker(DilaError):
    """A process that read data is gone."""

    def __init__(self, error: RuntimeError):
        super().__init__(
            f"a process that read data is gone ({first_line(error).rstrip('. ')}); where memory was short, lower "
            "workers; the same command goes on from the last checkpoint"
        )


@contextmanager
def with_workers() -> Iterator[None]:
    """Around what reads from a loader: that one of its processes is gone becomes one sentence.

    Raises:
        LostWorker: it is.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise LostWorker(error) from error


@contextmanager
def between_reads() -> Iterator[None]:
    """Around a step: that a worker died is told when data is read next, not in the midst of it.

    torch tells of it by a handler of SIGCHLD, and once more where a worker's batch does not come.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def with_others(processes: int) -> Iterator[None]:
    """Around what several processes do together: one that is left alone says so, and does not wait for ever.

    Raises:
        DilaError: another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        apart = isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in LOST)
        if processes == 1 or not apart:
            raise
        raise DilaError(
            "another process of this run is gone, for the reason that it gave; once that is mended, the same command "
            "goes on from the last checkpoint"
        ) from error


class Faults:
    """What one process could not read; saved with a checkpoint, so that a resumed run counts on.

    Args:
        tolerate: share of the clips that may fail.
    """

    def __init__(self, tolerate: float):
        self.tolerate = tolerate
        self.drawn = 0
        self.skipped = 0
        self.unlisted: list[str] = []

    def note(self, drawn: int, skipped: Sequence[str]) -> None:
        """Count clips of a step that has been taken, and those that were skipped for it."""
        self.drawn += drawn + len(skipped)
        self.skipped += len(skipped)
        self.unlisted += skipped

    def agree(self, accelerator: Any) -> tuple[int, int, list[str]]:
        """Over all processes: clips drawn, those skipped, and the skipped ones that were not listed yet."""
        numbers = torch.tensor([self.drawn, self.skipped, len(self.unlisted)], device=accelerator.device)
        drawn, skipped, unlisted = accelerator.reduce(numbers, reduction="sum").tolist()
        listed: list[str] = []
        if unlisted:
            from accelerate.utils import gather_object

            listed, self.unlisted = gather_object(self.unlisted), []
        return drawn, skipped, listed

    def check(self, drawn: int, skipped: int, listed: Sequence[str]) -> None:
        """Whether the run may go on.

        Raises:
            DilaError: more than the tolerated share of clips could not be read.
        """
        if skipped > self.tolerate * max(drawn, JUDGED):
            raise DilaError(
                f"{skipped} of {drawn} clips cannot be read, more than tolerate = {self.tolerate:g} allows, the last "
                f"{listed[-1] if listed else 'as the log says'}; bring the files back and resume"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        return {"drawn": self.drawn, "skipped": self.skipped, "unlisted": list(self.unlisted)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Count on from what `state_dict` gave."""
        self.drawn, self.skipped, self.unlisted = state["drawn"], state["skipped"], list(state["unlisted"])
