"""Clips that could not be read: counted in each process, agreed on between them, listed in the log, and an end."""

from collections.abc import Sequence
from typing import Any

import torch

from dila.errors import DilaError

JUDGED = 100
"""Clips drawn before a share of them says anything."""


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
