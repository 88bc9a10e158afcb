"""Failures during a run: unreadable clips, which are counted and listed, and processes that die."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dila.errors import DilaError, first_line

LOST = ("gloo", "nccl", "connection closed", "connection reset")
"""Fragments of the errors raised by a process whose peer has died."""
JUDGED = 100
"""Minimum number of clips that the share of unreadable ones is computed from."""


class LostWorker(DilaError):
    """A data worker process died."""

    def __init__(self, error: Exception):
        super().__init__(
            f"a data worker process died ({first_line(error).rstrip('. ')}); if memory was short, lower "
            "workers; the same command resumes from the last checkpoint"
        )


@contextmanager
def with_workers() -> Iterator[None]:
    """Convert the error of a data loader whose worker died to `LostWorker`.

    Raises:
        LostWorker: a worker of the loader died.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise LostWorker(error) from error
    except (ConnectionError, EOFError) as error:  # it died after queueing a batch, before handing over its memory
        if str(error).startswith("Caught"):  # torch's wrapper of an error in a live worker
            raise
        raise LostWorker(error) from error


@contextmanager
def between_reads() -> Iterator[None]:
    """Defer the error about a dead worker from the middle of a step to the next read.

    torch raises it in a SIGCHLD handler, and again when the worker's batch does not arrive.
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
    """Convert the communication error that follows the death of another process to a `DilaError`.

    Raises:
        DilaError: another process died.
    """
    try:
        yield
    except RuntimeError as error:
        apart = isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in LOST)
        if processes == 1 or not apart:
            raise
        raise DilaError(
            "another process of this run died; fix the cause given in its own error message, then run the same command "
            "to resume from the last checkpoint"
        ) from error


class Faults:
    """Count of the clips that one process drew and could not read; saved in checkpoints.

    Args:
        tolerate: share of the clips that may be unreadable.
    """

    def __init__(self, tolerate: float):
        self.tolerate = tolerate
        self.drawn = 0
        self.skipped = 0
        self.unlisted: list[str] = []

    def note(self, drawn: int, skipped: Sequence[str]) -> None:
        """Count the clips of a finished step, and those that were skipped for it."""
        self.drawn += drawn + len(skipped)
        self.skipped += len(skipped)
        self.unlisted += skipped

    def agree(self, accelerator: Any) -> tuple[int, int, list[str]]:
        """Return, over all processes, the clips drawn, the clips skipped, and the skipped ones not yet listed."""
        numbers = torch.tensor([self.drawn, self.skipped, len(self.unlisted)], device=accelerator.device)
        drawn, skipped, unlisted = accelerator.reduce(numbers, reduction="sum").tolist()
        listed: list[str] = []
        if unlisted:
            from accelerate.utils import gather_object

            listed, self.unlisted = gather_object(self.unlisted), []
        return drawn, skipped, listed

    def check(self, drawn: int, skipped: int, listed: Sequence[str]) -> None:
        """Check that the share of unreadable clips is tolerable.

        Raises:
            DilaError: more than `tolerate` of the clips could not be read.
        """
        if skipped > self.tolerate * max(drawn, JUDGED):
            raise DilaError(
                f"{skipped} of {drawn} clips cannot be read, more than tolerate = {self.tolerate:g} allows; the last: "
                f"{listed[-1] if listed else 'see the log'}; restore the files and resume"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"drawn": self.drawn, "skipped": self.skipped, "unlisted": list(self.unlisted)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of `state_dict`."""
        self.drawn, self.skipped, self.unlisted = state["drawn"], state["skipped"], list(state["unlisted"])
