"""The losses of ten steps of a very small run, to notice when training changes without anyone meaning it to.

Write the file anew, when it is meant:  python tests/train/test_golden.py
"""

import json
import tempfile
from pathlib import Path

import pytest
from train_world import PatchConfig, PatchEncoder, small_run, write_corpus

from dila import vision
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import OneStep, Rollout, Terms
from dila.train.run import Stage

GOLDEN = Path(__file__).parents[1] / "assets" / "golden_loss.json"
UNLEARNT = {"clips_per_second", "skipped_clips"}


def losses(folder: Path) -> list[dict]:
    terms = Terms(motion=1.0, detach_structure=True)
    stages = (Stage(OneStep(terms, shown=0.5), 4), Stage(OneStep(), 3), Stage(Rollout(terms), 3))
    data = write_corpus(folder / "data")
    train(small_run(stages=stages), data, folder / "out", cache_dir=folder / "cache", progress=False)
    records = [record for record in read_log(folder / "out") if record["kind"] == "train"]
    return [{key: value for key, value in record.items() if key not in UNLEARNT} for record in records]


def test_the_loss_curve_is_the_golden_one(tmp_path):
    wanted = json.loads(GOLDEN.read_text())
    found = losses(tmp_path)
    assert len(found) == len(wanted) == 10
    for one, other in zip(found, wanted, strict=True):
        assert one.pop("stage") == other.pop("stage")
        one.pop("kind"), other.pop("kind")
        assert one == pytest.approx(other, rel=5e-3, abs=1e-6)


if __name__ == "__main__":
    vision.ENCODERS[PatchEncoder.name] = (PatchEncoder, PatchConfig)
    with tempfile.TemporaryDirectory() as folder:
        lines = ",\n".join(json.dumps(record) for record in losses(Path(folder)))
    GOLDEN.write_text(f"[\n{lines}\n]\n")
