"""The losses of ten steps of a very small run, and of six of recipe tiny_pusht, to notice when training changes without
anyone meaning it to.

Write the files anew, when it is meant:  python tests/train/test_golden.py
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from train_world import PatchConfig, PatchEncoder, small_run, write_corpus

from dila import vision
from dila.recipes import recipe
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import OneStep, Rollout, Terms
from dila.train.run import Run, Stage

ASSETS = Path(__file__).parents[1] / "assets"
GOLDEN = {"small": ASSETS / "golden_loss.json", "tiny_pusht": ASSETS / "golden_loss_tiny_pusht.json"}
UNLEARNT = {"clips_per_second", "skipped_clips"}


def short_run(name: str) -> Run:
    if name == "small":
        terms = Terms(motion=1.0, detach_structure=True)
        return small_run(stages=(Stage(OneStep(terms, shown=0.5), 4), Stage(OneStep(), 3), Stage(Rollout(terms), 3)))
    run = recipe(name)  # in float32, because bfloat16 differs from processor to processor
    stages = tuple(replace(stage, steps=2) for stage in run.stages)
    clips = replace(run.clips, fps=5.0)  # of the toy corpus, whose episodes are too short at 10
    return replace(run, stages=stages, clips=clips, batch=4, precision="fp32", log_every=1, decoder=None, trackers=())


def losses(name: str, folder: Path) -> list[dict]:
    data = write_corpus(folder / "data")
    train(short_run(name), data, folder / "out", cache_dir=folder / "cache", progress=False)
    records = [record for record in read_log(folder / "out") if record["kind"] == "train"]
    return [{key: value for key, value in record.items() if key not in UNLEARNT} for record in records]


@pytest.mark.parametrize(("name", "steps"), [("small", 10), ("tiny_pusht", 6)])
def test_the_loss_curve_is_the_golden_one(name, steps, tmp_path):
    wanted = json.loads(GOLDEN[name].read_text())
    found = losses(name, tmp_path)
    assert len(found) == len(wanted) == steps
    for one, other in zip(found, wanted, strict=True):
        assert one.pop("stage") == other.pop("stage")
        one.pop("kind"), other.pop("kind")
        assert one == pytest.approx(other, rel=5e-3, abs=1e-6)


if __name__ == "__main__":
    vision.ENCODERS[PatchEncoder.name] = (PatchEncoder, PatchConfig)
    for name, path in GOLDEN.items():
        with tempfile.TemporaryDirectory() as folder:
            lines = ",\n".join(json.dumps(record) for record in losses(name, Path(folder)))
        path.write_text(f"[\n{lines}\n]\n")
