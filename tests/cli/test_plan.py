"""From the quickstart's model to a plan on Push-T, by the command line."""

import json

import pytest

pytest.importorskip("gym_pusht")

from dila.cli.main import main
from dila.interop.actions import load_actions


@pytest.fixture(scope="module")
def adapted(first_look, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "adapted"
    line = [
        "adapt", str(first_look.folder / "run"), str(first_look.folder / "pusht"), "--out", str(out),
        "--cache-dir", str(first_look.folder / "features"), "--relative", "agent_x", "agent_y",
        "--trajectories", "4", "--fit-steps", "5", "--layout-steps", "1", "--steps", "0", "--batch", "2",
        "--device", "cpu",
    ]  # fmt: skip
    assert main(line) == 0
    return out / "model"


def test_a_plan_is_made_reported_and_gone_on_with(adapted, tmp_path, capsys):
    line = [
        "plan", str(adapted), "pusht-reach", "--out", str(tmp_path), "--device", "cpu", "--planner", "cem",
        "--samples", "20", "--iterations", "1", "--steps", "2", "--horizon", "2",
    ]  # fmt: skip
    assert main([*line, "--episodes", "1"]) == 0
    told = capsys.readouterr().out
    assert "95% interval" in told
    assert "between random (0) and the true simulator (1)" in told
    assert main([*line, "--episodes", "2"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["arms"]["model"]["episodes"] == 2
    assert main([*line, "--cost", "features"]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_a_model_without_real_actions_says_how_to_get_them(first_look, tmp_path, capsys):
    assert main(["plan", str(first_look.folder / "run"), "pusht-reach", "--out", str(tmp_path)]) == 2
    assert "dila adapt MODEL DATA" in capsys.readouterr().err


def test_an_adapted_model_labels_with_real_actions(adapted, first_look, tmp_path, capsys):
    import pyarrow.parquet as pq
    import torch

    video, out = str(first_look.folder / "pusht" / "episode_00000.mp4"), tmp_path / "z.parquet"
    assert main(["label", str(adapted), video, "--out", str(out), "--actions", "--device", "cpu"]) == 0
    rows = pq.read_table(out).slice(0, 5)
    _, to_action = load_actions(adapted)
    z, action = (torch.tensor(rows[name].to_pylist()) for name in ("z", "action"))
    torch.testing.assert_close(action, to_action(z))
    assert main(["label", str(first_look.folder / "run"), video, "--out", str(out), "--actions"]) == 2
    assert "dila adapt MODEL DATA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--samples", "0"], "--samples 0 must be at least 1"),
        (["--iterations", "0"], "--iterations 0 must be at least 1"),
        (["--steps", "0"], "--steps 0 must be at least 1"),
        (["--seed", "-1"], "--seed -1 must be at least 0"),
        (["--size", "3"], "--size 3 must be at least 8"),
        (["--seconds", "nan"], "--seconds nan must be a number above 0"),
        (["--seconds", "-1"], "--seconds -1 must be a number above 0"),
        (["--arms"], "--arms is empty"),
        (["--planner", "gradient"], "give --arms random model"),
        (["--planner", "cem", "--samples", "5"], "elites = 20 must be from 2 to samples = 5"),
    ],
)
def test_flags_that_make_no_plan_are_refused_before_anything_is_loaded(tmp_path, capsys, flags, told):
    assert main(["plan", str(tmp_path / "no model"), "pusht-reach", "--out", str(tmp_path / "out"), *flags]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_command_that_was_refused_holds_no_folder(adapted, tmp_path, capsys):
    line = ["--out", str(tmp_path), "--device", "cpu", "--steps", "1", "--horizon", "2", "--episodes", "1"]
    line = ["plan", str(adapted), "pusht-reach", *line, "--arms", "random"]
    assert main([*line, "--goals", "nope.hdf5"]) == 2
    assert "--goals: nope.hdf5 does not exist" in capsys.readouterr().err
    assert (tmp_path / "plan.json").is_file()
    assert main(line) == 0
    assert main([*line, "--goals", "nope.hdf5"]) == 2
    assert "choose another folder" in capsys.readouterr().err


def test_an_environment_that_is_not_there_is_told(adapted, tmp_path, capsys):
    assert main(["plan", str(adapted), "chess", "--out", str(tmp_path / "x"), "--device", "cpu"]) == 2
    assert "there is no environment 'chess'; choose one of pusht-push" in capsys.readouterr().err
