import importlib.util
import json
from pathlib import Path

import pytest
import torch

from dila.cli.main import main
from dila.evaluate import speed
from dila.evaluate.speed import Work
from dila.imagine.rollout import rollout
from dila.train.objectives import Batch, OneStep, Rollout, Weights

CPU = torch.device("cpu")


def load(name):
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plain():
    """The baseline of the benchmarks."""
    return load("plain")


@pytest.fixture
def model(small_config, awake):
    return awake(small_config).double()


@pytest.mark.parametrize("stage", ["one_step", "rollout"])
def test_the_plain_losses_and_gradients_are_ours(plain, model, clip, stage):
    e, other = clip(4).double(), plain.plain(model)
    objective, loss_of = {
        "one_step": (OneStep(), plain.one_step_loss), "rollout": (Rollout(), plain.rollout_loss)
    }[stage]  # fmt: skip
    mine, theirs = objective(model, Batch(e)).total, loss_of(other, e, Weights())
    mine.backward()
    theirs.backward()
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    for (name, ours), plains in zip(model.named_parameters(), other.parameters(), strict=True):
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, plains.grad, atol=1e-6, rtol=1e-4, msg=name)


@torch.no_grad()
def test_plain_rollouts_and_plans_are_ours(plain, small_config, awake, clip):
    model = awake(small_config)
    other, e = plain.plain(model), clip(2, batch=1)
    z, goal = torch.randn(3, 4, 8), torch.randn(4, 6, 6)
    torch.testing.assert_close(rollout(other, e, z[:1]), rollout(model, e, z[:1]), atol=1e-4, rtol=1e-4)
    costs = speed.plan_costs(model, e, z, goal)
    torch.testing.assert_close(plain.plan_costs(other, e, z, goal), costs, atol=1e-4, rtol=1e-4)
    assert costs.unique().numel() == 3


@pytest.mark.parametrize("kind", speed.KINDS)
def test_every_work_is_measured(kind):
    measured = speed.measure(Work(kind, "tiny", frames=3, candidates=2), CPU, repeats=1)
    assert measured.seconds > 0
    assert measured.tflop > 1e-4
    assert measured.peak_gib > 0.1


def test_operations_are_counted_whoever_does_the_attention(monkeypatch):
    work = Work("plan", "tiny", frames=2, candidates=2)
    fused = speed.measure(work, CPU, repeats=1).tflop
    monkeypatch.setattr("dila.nn.attention._LONG", 10**6)
    assert fused == pytest.approx(speed.measure(work, CPU, repeats=1).tflop)


def test_a_depthwise_convolution_costs_as_much_again_for_each_of_its_gradients():
    conv = torch.nn.Conv3d(64, 64, 3, padding=1, groups=64)
    x = torch.randn(1, 64, 4, 8, 8, requires_grad=True)
    once = speed.count_tflop(lambda: conv(x))
    assert once == pytest.approx(2 * 27 * x.numel() / 1e12)
    assert speed.count_tflop(lambda: conv(x).sum().backward()) == pytest.approx(3 * once)
    assert speed.count_tflop(lambda: conv(x.detach()).sum().backward()) == pytest.approx(2 * once)


def test_work_grows_along_its_own_dimensions():
    assert set(speed.grown(Work("plan"))) == {"candidates", "frames"}
    assert [w.batch for w in speed.grown(Work("train"))["batch"]] == [1, 2, 4]


def test_the_command_prints_a_table_and_writes_the_same(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert main(["bench", "tiny", "--works", "label", "--repeats", "1", "--json", str(path)]) == 0
    told = json.loads(path.read_text())
    (row,) = told["rows"]
    assert min(told["data"].values()) > 1
    assert row["kind"] == "label"
    assert 0 < row["share_of_matmul_peak"] < 1.5
    assert f"{row['seconds']:.3f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("works", "fly", "there is no fly"),
        ("repeats", "0", "--repeats 0 must be at least 1"),
        ("candidates", "0", "--candidates 0 must be at least 1"),
        ("batch", "-1", "--batch -1 must be at least 1"),
        ("frames", "1", "--frames 1 must be at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, flag, value, told):
    assert main(["bench", "tiny", f"--{flag}", value]) == 2
    assert told in capsys.readouterr().err
