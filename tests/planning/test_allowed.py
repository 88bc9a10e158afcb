"""A model plans the actions that it was adapted to, as far as it has seen them; bounds know no model."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dila.errors import DilaError
from dila.interop.actions import ActionSpace
from dila.planning.allowed import seen, taken
from dila.planning.planner import Limits

PUSHT = ActionSpace(("x", "y"), 2, ("agent_x", "agent_y"), (0.0, 0.0), (50.0, 50.0), (120.0, 120.0), 0.5, 0.8)
BOARD = SimpleNamespace(
    limits=Limits(torch.full((2,), -150.0), torch.full((2,), 150.0)), repeats=2, names=("x", "y"),
    relative=("agent_x", "agent_y"),
)  # fmt: skip


def ends(limits):
    return limits.low.tolist(), limits.high.tolist()


def test_the_environments_limits_are_its_own_whatever_the_model_has_seen():
    for bound in (120.0, 300.0, 1.0):
        assert ends(taken("board", replace(PUSHT, bound=(bound, bound)), BOARD)) == ([-150] * 2, [150] * 2)


def test_the_model_plans_what_it_has_seen_of_them():
    assert ends(seen("board", PUSHT, BOARD.limits)) == ([-120] * 2, [120] * 2)
    uneven = replace(PUSHT, low=(0.5, -200.0), high=(1.0, 200.0))
    assert ends(seen("board", uneven, BOARD.limits)) == ([0.5, -150], [1, 150])
    with pytest.raises(
        DilaError, match=r"has seen actions from \[200.0, .* takes actions from \[-150.0, .*recordings of"
    ):
        seen("board", replace(uneven, low=(200.0, 0.0), high=(300.0, 1.0)), BOARD.limits)


def test_what_an_environment_does_not_say_is_as_in_the_data():
    assert ends(taken("mine", PUSHT, SimpleNamespace())) == ([-120] * 2, [120] * 2)
    assert ends(taken("mine", replace(PUSHT, low=(0.5, 0.0), high=(1.0, 2.0)), SimpleNamespace())) == ([0.5, 0], [1, 2])


@pytest.mark.parametrize(("change", "told"), [
    ({"repeats": 3}, "actions of 2 components, 3 per transition, but board takes 2 components, 2 per"),
    ({"relative": ()}, "relative to nothing, but those of board are relative to agent_x, agent_y; adapt it with "
     "--relative agent_x agent_y"),
    ({"relative": ("block_x", "block_y")}, "relative to block_x, block_y, but"),
    ({"names": ("y", "x")}, "to the actions y, x, but those of board are x, y; adapt it to recordings of board"),
])  # fmt: skip
def test_other_actions_are_refused(change, told):
    with pytest.raises(DilaError, match=told):
        taken("board", replace(PUSHT, **change), BOARD)


def test_places_that_are_taken_as_they_are_want_no_flag():
    with pytest.raises(DilaError, match="relative to nothing; adapt it without --relative"):
        taken("maze", PUSHT, SimpleNamespace(relative=()))


def test_names_that_only_number_components_say_nothing():
    taken("board", replace(PUSHT, names=("motor_0", "motor_1"), relative=("s0", "s1")), BOARD)
