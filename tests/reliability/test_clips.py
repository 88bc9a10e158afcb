"""Labelling very many clips: as fast and as small at the end as at the beginning."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "load.py"


@pytest.fixture
def load():
    spec = importlib.util.spec_from_file_location("load", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_hundreds_of_clips_are_labelled_in_memory_that_does_not_grow(load):
    told = load.measure(320)
    assert (told["clips"], told["rows"], told["actions"], told["skipped"]) == (320, 1280, 960, 0)
    assert len(told["tenths"]) == load.TENTHS
    assert told["last_to_second_tenth"]["megabytes_more"] < 30


@pytest.mark.slow
def test_thousands_of_clips_are_labelled_at_one_speed(load):
    told = load.measure(9_600)
    assert told["skipped"] == 0
    assert told["last_to_second_tenth"]["megabytes_more"] < 30
    assert told["last_to_second_tenth"]["speed_by_processor"] > 0.7  # other work on the machine costs some
