"""Freed memory stays with a process that trains, and goes back to the system where layers are recomputed."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from train_world import small_model

from dila.evaluate.speed import apart
from dila.model.dila import DiLA
from dila.train.learner import arrange

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="another system's memory")

MB = 1 << 20


def held() -> float:
    """Megabytes of this process that no file backs."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024


def kept(*recompute: bool) -> float:
    """Of 80 freed megabytes those that stay, after the layers of some models were arranged one after the other."""
    for each in recompute:
        arrange(DiLA(small_model()), torch.device("cpu"), recompute=each)
    before = held()
    blocks = [np.ones(40 * MB, np.uint8) for _ in range(2)]
    assert held() - before > 70
    del blocks
    return held() - before


@pytest.mark.parametrize(
    ("recompute", "least", "most"),
    [((), -5, 5), ((False,), 70, 90), ((True,), -5, 5), ((True, False), 70, 90), ((False, True), -5, 5)],
)
def test_large_blocks_stay_with_a_process_that_trains_but_not_where_layers_are_recomputed(recompute, least, most):
    assert least < apart(kept, *recompute) < most


def test_training_on_a_gpu_leaves_the_processors_memory_as_it_is():
    assert apart(kept_on_a_gpu) < 5


def kept_on_a_gpu() -> float:
    arrange(DiLA(small_model()), torch.device("cuda"))
    return kept()
