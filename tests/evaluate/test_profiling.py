import copy
import json

import pytest
import torch

from dila.cli.main import main
from dila.evaluate.profiling import REST, take_profile
from dila.evaluate.speed import Work, make, ready

CPU = torch.device("cpu")


def profiled(kind, **more):
    work = Work(kind, "tiny", frames=3, candidates=2, **more)
    model, e = make(work, CPU)
    return model, take_profile(ready(work, model, e).run, model, CPU)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_is_told_by_part_both_ways(recompute):
    model, seen = profiled("train", recompute=recompute)
    told = {part.name: part for part in seen.parts}
    both = {f"{name}, {way}" for name in ("backbone", "idm", "fdm", "decoder") for way in ("forward", "backward")}
    assert both | {"optimiser", REST} <= told.keys()
    assert sum(part.share for part in seen.parts) == pytest.approx(1)
    assert told[REST].share < 0.4
    assert all(part.seconds >= 0 for part in seen.parts)
    assert "forward" not in copy.deepcopy(model).decoder.__dict__


def test_operations_are_told_most_first():
    _, seen = profiled("plan")
    spent = [operation.seconds for operation in seen.operations]
    assert spent == sorted(spent, reverse=True)
    assert any(operation.name.startswith("aten::") for operation in seen.operations)
    assert not any("backward" in part.name for part in seen.parts)


def test_the_command_tells_where_the_time_goes(tmp_path, capfd):
    path = tmp_path / "bench.json"
    command = [
        "bench",
        "tiny",
        "--works",
        "rollout",
        "--frames",
        "2",
        "--repeats",
        "1",
        "--profile",
        "--json",
        str(path),
    ]
    assert main(command) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert any(part["name"] == "decoder, forward" for part in row["parts"])
    printed = capfd.readouterr()
    assert "decoder, forward" in printed.out
    assert row["operations"][0]["name"] in printed.out
    assert "USDT" not in printed.err
