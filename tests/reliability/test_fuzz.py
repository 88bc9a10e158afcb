"""Damaged and hostile files end in a result or in one sentence: no crash, no hang, no memory that fills."""

from contextlib import nullcontext

import fuzzing
import guided
import pytest
from fuzzing import READERS, fuzz
from seeds import SEEDS, plant

CASES = [(kind, make) for kind, makes in SEEDS.items() for make in makes]
IDS = [make.__name__ for _, make in CASES]


@pytest.mark.parametrize(("kind", "make"), CASES, ids=IDS)
def test_the_seeds_themselves_are_read(kind, make, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "suppress", nullcontext)  # a sentence is no answer to a true file
    assert READERS[kind](plant(make, tmp_path)) == []


def test_a_hundred_changed_files_end_in_a_result_or_a_sentence(tmp_path):
    jobs = [(kind, plant(make, tmp_path), range(7)) for kind, make in CASES]
    assert fuzz(jobs, tmp_path / "work") == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "make"), CASES, ids=IDS)
def test_thousands_of_changed_files_end_in_a_result_or_a_sentence(kind, make, tmp_path):
    assert fuzz([(kind, plant(make, tmp_path), range(1_000, 1_600))], tmp_path / "work") == []


@pytest.mark.slow
def test_the_fuzzer_that_sees_lines_reaches_more_than_the_true_file(tmp_path):
    pytest.importorskip("atheris")
    (told,) = guided.run("trainer", tmp_path / "work", 10)
    assert told["faults"] == []
    assert told["files"] > 100
    assert told["covered"][1] > told["covered"][0]
