import numpy as np
import torch

from dila.train.material import action_statistics


class Known:
    """An episode of three frames whose last action is not known."""

    id, times = "a", np.arange(3.0)
    columns = {"action": np.array([[0, 1], [2, 5], [np.nan, np.nan]], np.float32)}  # noqa: RUF012

    def read(self, frames):
        return torch.zeros(len(frames), 3, 2, 2, dtype=torch.uint8)

    def fingerprint(self):
        return self.id


def test_actions_that_are_not_known_do_not_count():
    mean, std = action_statistics([Known(), Known()], 2)
    torch.testing.assert_close(mean, torch.tensor([1.0, 3.0, 1.0, 3.0]))
    assert bool(std.isfinite().all())
