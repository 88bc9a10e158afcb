import json
import sys

import pytest

from dila.errors import MissingExtra
from dila.train.log import Log, read_log


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path):
    log = Log(tmp_path, (), "run", {}, 0)
    for step in (1, 2, 3):
        log.write("train", step, {"total": float(step)})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a kill in the middle of a line
    log = Log(tmp_path, (), "run", {}, 2)
    log.write("train", 3, {"total": 9.0})
    assert [(record["step"], record["total"]) for record in read_log(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 9.0)]
    log.close()


def test_each_record_is_on_disk_when_written(tmp_path):
    log = Log(tmp_path, (), "run", {}, 0)
    log.write("evaluation", 5, {"rollout_ratio_by_frame": [0.5, 0.25]})
    line = (tmp_path / "log.jsonl").read_text()
    assert json.loads(line) == {"kind": "evaluation", "step": 5, "rollout_ratio_by_frame": [0.5, 0.25]}
    log.close()


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    log = Log(tmp_path, ("tensorboard",), "run", {}, 0)
    log.write("train", 1, {"total": 2.0, "stage": "OneStep"})
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/total" in events.read_bytes()
    assert b"train/stage" not in events.read_bytes()


def test_without_tensorboard_there_is_still_the_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Log(tmp_path, ("tensorboard",), "run", {}, 0)
    log.write("train", 1, {"total": 2.0})
    log.close()
    assert len(read_log(tmp_path)) == 1


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracker_that_was_asked_for_must_be_there(tmp_path, monkeypatch, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(MissingExtra, match=tracker):
        Log(tmp_path, (tracker,), "run", {}, 0)


def test_a_tracker_that_fails_is_warned_of_once_and_left_out(tmp_path, caplog, monkeypatch):
    pytest.importorskip("tensorboard")
    log = Log(tmp_path, ("tensorboard",), "run", {}, 0)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    for step in (1, 2):
        log.write("train", step, {"total": 2.0})
    log.close()
    assert [record["step"] for record in read_log(tmp_path)] == [1, 2]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "dila.train.log"]
    assert said.startswith("tensorboard failed (OSError: [Errno 28] No space left on device); the run continues")
