import pytest
import torch

from dila.errors import DilaError
from dila.evaluate.factors import components, find_factors, known_rows, tell_unknown

NAMES = {"state": ("x", "angle"), "colour": ("red", "green", "blue"), "background": ("x",)}


def columns():
    return {
        "state": torch.randn(4, 5, 2),
        "colour": torch.rand(4, 1, 3).expand(4, 5, 3),
        "background": torch.zeros(4, 5, 1),
        "shape": torch.arange(4)[:, None, None].expand(4, 5, 1),
        "held_out": torch.arange(4)[:, None, None].expand(4, 5, 1),
        "sensors": torch.randn(4, 5, 30),
        "action": torch.randn(4, 4, 2, 3),
    }


def test_each_column_is_read_as_what_it_is():
    found = {factor.name: factor for factor in find_factors(columns(), NAMES)}
    assert {name: factor.kind for name, factor in found.items()} == {
        "x": "number", "angle": "angle", "colour": "number", "shape": "class", "sensors": "number"
    }  # fmt: skip
    told = columns()
    assert found["angle"].of(told).shape == (4, 5, 2)
    assert found["shape"].of(told).tolist() == [[i] * 5 for i in range(4)]
    assert found["colour"].of(told).shape == (4, 5, 3)


def test_of_a_wide_column_the_components_that_are_wanted_are_factors_of_their_own():
    told = {"state": torch.randn(4, 5, 10), "shape": columns()["shape"]}
    names = {"state": ("x", "y", "yaw", *(f"q{i}" for i in range(7)))}
    assert [factor.name for factor in find_factors(told, names)] == ["state", "shape"]
    found = find_factors(told, names, "state", ("yaw", "1"))
    assert [(factor.name, factor.parts, factor.kind) for factor in found] == [
        ("yaw", (2,), "angle"), ("y", (1,), "number"), ("shape", (0,), "class")
    ]  # fmt: skip
    with pytest.raises(DilaError, match=r"'state' has no component z; it has x, y, yaw"):
        find_factors(told, names, "state", ("z",))


def test_components_go_by_their_own_names():
    names = {"state": ("x", "y", "yaw")}
    assert [(f.name, f.parts, f.kind) for f in components("state", ("2", "x"), 3, names)] == [
        ("yaw", (2,), "angle"), ("x", (0,), "number")
    ]  # fmt: skip
    assert [f.name for f in components("force", (), 2, names)] == ["0", "1"]


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("angle", "angle block_angle dangle dyaw yaw Yaw YAW pitch roll heading theta1 baseYaw joint/angle"),
        ("number", "triangle_x rectangle_y yaw_rate theta_dot joint_angle_velocity yawRate pitch_acc cos_theta"),
        ("number", "x log_scale turn forward vx object_qw joint1 left_hinge_cabinet light_switch slide drawer dx"),
    ],
)
def test_an_angle_is_known_by_a_whole_word_of_its_name(kind, names):
    names = tuple(names.split())
    found = components("state", (), len(names), {"state": names})
    assert {factor.name: factor.kind for factor in found} == dict.fromkeys(names, kind)


def test_a_factor_that_is_not_always_known_is_one_all_the_same():
    told = {"state": torch.randn(4, 5, 2)}
    told["state"][0, 1, 0] = torch.nan
    assert [factor.name for factor in find_factors(told, NAMES)] == ["x", "angle"]
    assert tell_unknown(told, NAMES) == ["x is unknown in 1 of 20 frames, which its probes exclude"]
    told["state"][..., 0] = torch.nan
    assert [factor.name for factor in find_factors(told, NAMES)] == ["angle"]
    assert tell_unknown(told, NAMES) == ["x is unknown in all frames, which its probes exclude"]
    with pytest.raises(DilaError, match="column 'state' has no known value of x in any transition"):
        known_rows(told["state"][0], components("state", ("x",), 2, NAMES))


def test_an_angle_changes_the_shorter_way_round():
    told = {"state": torch.tensor([[[0.0, 3.1], [1.0, -3.1]]])}
    found = find_factors({"state": torch.randn(1, 2, 2)}, NAMES)
    changes = {factor.name: float(factor.change(told)) for factor in found}
    assert changes["x"] == 1
    assert abs(changes["angle"] - (2 * torch.pi - 6.2)) < 1e-5
