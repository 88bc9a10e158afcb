import json
import re
from dataclasses import dataclass, field
from typing import Literal

import pytest

from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.model.config import DiLAConfig
from dila.model.presets import PRESETS


@dataclass(frozen=True)
class Inner:
    size: int
    rate: float = 0.5


@dataclass(frozen=True)
class Round:
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    side: float = 2.0


@dataclass(frozen=True)
class Outer:
    inner: Inner
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    many: tuple[Inner, ...] = ()
    name: str | None = None
    shape: Round | Square = field(default_factory=Round)
    flag: bool = False


FULL = Outer(Inner(3), "b", (4, 5), (Inner(1), Inner(2, 0.1)), "x", Square(3.0), True)


@pytest.mark.parametrize("value", [FULL, Outer(Inner(1))])
def test_round_trip_through_text(value):
    assert from_json(Outer, json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_round_trips(name):
    config = PRESETS[name]()
    assert from_json(DiLAConfig, json.loads(json.dumps(to_json(config)))) == config


def test_fields_left_out_take_their_defaults():
    assert from_json(Outer, {"inner": {"size": 1}}) == Outer(Inner(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"innner": 1}, "Outer has no field innner; its fields are inner, mode, pair, many, name, shape, flag"),
        ({"inner": {}}, "Outer.inner needs the field size"),
        ({"inner": {"size": 1, "x": 2}}, "Outer.inner has no field x; its fields are size, rate"),
        ({"inner": 3}, "Outer.inner should be an object with the fields of Inner, not 3"),
        ({"inner": {"size": 1.5}}, "Outer.inner.size should be of type int, not 1.5"),
        ({"inner": {"size": True}}, "Outer.inner.size should be of type int, not True"),
        ({"inner": {"size": 1, "rate": "fast"}}, "Outer.inner.rate should be of type float, not 'fast'"),
        ({"mode": "c"}, "Outer.mode should be one of 'a', 'b', not 'c'"),
        ({"pair": [1]}, "Outer.pair should have 2 entries, not 1"),
        ({"pair": 3}, "Outer.pair should be a list, not 3"),
        ({"pair": [1, "2"]}, "Outer.pair[1] should be of type int, not '2'"),
        ({"many": [{"size": 1}, {"size": "1"}]}, "Outer.many[1].size should be of type int, not '1'"),
        ({"name": 3}, "Outer.name should be of type str, not 3"),
        ({"shape": {"kind": "Star"}}, "Outer.shape.kind should be one of Round, Square, not 'Star'"),
        ({"shape": {"kind": "Square", "radius": 1}}, "Outer.shape has no field radius; its fields are side"),
        ({"flag": 1}, "Outer.flag should be of type bool, not 1"),
    ],
)
def test_errors_name_the_field_with_its_path(change, message):
    with pytest.raises(DilaError, match=f"^{re.escape(message)}$"):
        from_json(Outer, {"inner": {"size": 1}} | change)


def test_whole_numbers_stand_for_floats():
    assert from_json(Inner, {"size": 1, "rate": 2}).rate == 2.0
