import json

import numpy as np
import pytest
import torch

from dila.cli.main import main
from dila.errors import DilaError
from dila.evaluate.pins import Pin, check_pins, make_pins, read_pins, write_pins


class Recorded:
    """An episode of so many frames, ten a second."""

    def __init__(self, name, length, told="a"):
        self.columns = {}
        self.id, self.times, self.told = name, np.arange(length) / 10, told

    def read(self, frames):
        return torch.zeros(len(frames), 3, 4, 4, dtype=torch.uint8)

    def fingerprint(self):
        return self.told


@pytest.fixture
def episodes():
    return [Recorded(f"{i}.mp4", 30 + i) for i in range(5)]


def test_clips_are_spread_and_always_the_same(episodes):
    pins = make_pins(episodes, 0.2, 10, 8)
    assert pins == make_pins(episodes, 0.2, 10, 8)
    assert len({pin.episode for pin in pins.clips}) == 5
    assert len(set(pins.clips)) == 8
    assert pins.owners == sorted(pins.owners)
    assert all(pin.start + 9 * 2 < 30 + int(pin.episode[0]) for pin in pins.clips)
    assert pins.clips[0].name == f"0.mp4@{pins.clips[0].start}"


def test_they_are_as_long_as_the_data_allow(episodes):
    assert make_pins(episodes, 0.2, 40, 4).frames == 16
    assert make_pins(episodes, 0.2, 5, 100).clips[0] == Pin("0.mp4", 0)


def test_they_survive_a_file_and_an_edit_is_seen(episodes, tmp_path):
    path = tmp_path / "deep" / "pins.json"
    pins = make_pins(episodes, 0.2, 10, 8)
    write_pins(path, pins)
    assert read_pins(path) == pins
    assert read_pins(path).hash == pins.hash
    told = json.loads(path.read_text())
    told["clips"][0]["start"] += 1
    path.write_text(json.dumps(told))
    with pytest.raises(DilaError, match="was edited"):
        read_pins(path)
    path.write_text("{}")
    with pytest.raises(DilaError, match="not a pin file of format 1"):
        read_pins(path)
    with pytest.raises(DilaError, match="dila eval pin"):
        read_pins(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--stride", "0"), ("--stride", "-1"), ("--stride", "inf"), ("--frames", "1"), ("--clips", "0")],
)
def test_a_flag_that_pins_nothing_is_named(flag, value, tmp_path, capsys):
    assert main(["eval", "pin", "box", "--out", str(tmp_path / "pins.json"), flag, value]) == 2
    assert f"{flag} {value} must be " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_data_and_other_models_are_refused(episodes):
    pins = make_pins(episodes, 0.2, 10, 8)
    check_pins(pins, episodes, 0.2)
    with pytest.raises(DilaError, match=r"0\.3 s; pin clips for this model"):
        check_pins(pins, episodes, 0.3)
    with pytest.raises(DilaError, match=r"4\.mp4 is pinned but"):
        check_pins(pins, episodes[:4], 0.2)
    with pytest.raises(DilaError, match=r"1\.mp4 has changed"):
        check_pins(pins, [episodes[0], Recorded("1.mp4", 31, "b"), *episodes[2:]], 0.2)
