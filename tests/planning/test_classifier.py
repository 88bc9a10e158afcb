import pytest
import torch

from dila.errors import DilaError
from dila.planning.classifier import fit_classifier
from dila.planning.cost import Classified, Moment


def examples(count, there):
    """Noise with a bright cell, in the corner where the goal is reached, elsewhere where not."""
    maps = torch.randn(count, 4, 4, 6) * 0.3
    for each in maps:
        row, column = (0, 0) if there else divmod(int(torch.randint(1, 16, ())), 4)
        each[row, column] += 2
    return maps


def test_it_learns_where_the_goal_is_and_makes_a_cost():
    fitted = fit_classifier(examples(60, True), examples(120, False))
    assert fitted.accuracy > 0.85
    futures = torch.stack([examples(3, True), examples(3, False)])
    reached, missed = Classified(fitted.classifier)(Moment(0, features=futures))
    assert reached.max() < missed.min()


def test_the_same_seed_gives_the_same_classifier():
    reached, missed = examples(8, True), examples(8, False)
    state = torch.get_rng_state()
    first, again = (fit_classifier(reached, missed, steps=5, seed=1).classifier for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_too_few_examples_are_refused():
    with pytest.raises(DilaError, match="1 reached and 5 missed"):
        fit_classifier(examples(1, True), examples(5, False))
