"""Figure 4 in numbers."""

import pytest
import torch

from dila.evaluate.motion import _nearer


def test_the_layout_of_a_rebound_clip_is_ones_or_the_others():
    """It was told by R² against the other clip, by which noise was best."""
    a, b, noise = torch.rand(3, 512, 1, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    owners = torch.arange(16) // 2
    told = {name: _nearer("d", read, a, b, owners) for name, read in {
        "a": a, "b": b, "mean": a.mean().expand_as(a), "noise": 0.5 + 3 * (noise - 0.5),
    }.items()}  # fmt: skip
    assert (told["a"].value, told["b"].value) == (1, 0)
    assert told["mean"].value == pytest.approx(0.5, abs=0.03)
    assert told["noise"].value == pytest.approx(0.5, abs=0.03)
    assert told["mean"].low < 0.5 < told["mean"].high


def test_a_layout_that_is_known_of_one_clip_alone_has_no_distance():
    a, b = torch.full((4, 1), torch.nan), torch.zeros(4, 1)
    b[:3] = torch.nan
    assert _nearer("d", torch.zeros(4, 1), a, b, torch.arange(2)).value is None
