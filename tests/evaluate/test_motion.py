"""Figure 4 in numbers."""

from dataclasses import replace

import pytest
import torch

from dila.evaluate.motion import MOVES, _moves_as, _nearer, measure_motion


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


def test_a_clip_moves_as_the_one_whose_cells_change_with_its_own():
    a, b = torch.randn(2, 3, 6, 4, 5, 8)
    scale = torch.rand(6, 4, 5, 1)  # other cells change at other times
    told = _moves_as(2 * (a * scale)[:, 1:] + 1, a * scale, b * scale.flip(0, 1, 2))
    structure, content = (told[name] for name in MOVES)
    torch.testing.assert_close(structure, torch.ones(3))
    assert content.abs().max() < 0.5
    still = torch.zeros_like(a)
    assert all((values == 0).all() for values in _moves_as(still[:, 1:], a, b).values())


def test_video_without_a_state_has_numbers_too_and_a_note_of_what_is_left_out(bench):
    """Of such video nothing was said of the structure that is kept."""

    def unlabelled(episodes):
        return [replace(episode, columns={}) for episode in episodes]

    bare = replace(bench, train=unlabelled(bench.train), held=unlabelled(bench.held))
    told, labelled = measure_motion(bare), measure_motion(bench)
    assert [score.name for score in told.scores] == ["look_distance", "motion_left", *MOVES]
    assert told.notes == ("layout scores are omitted: they need a column state; motion_correlation needs none",)
    assert not labelled.notes
    for name in MOVES:
        assert told.score(name).values == labelled.score(name).values
        assert len(told.score(name).values) == len(told.rows)
        assert -1 <= told.score(name).value <= 1
