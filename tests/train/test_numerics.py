"""Steps that are left out, switches that hold, precisions that agree."""

from dataclasses import replace

import pytest
import torch
from train_world import small_model, small_run

from dila.errors import DilaError
from dila.interop.pretrained import load_pretrained
from dila.model.dila import DiLA
from dila.train import loop
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.numerics import KNOWN, Spikes, deterministic
from dila.train.objectives import OneStep, Rollout
from dila.train.processes import accelerator_of
from dila.train.run import Guard, Optimiser, Stage


def fed(spikes, *norms):
    return [spikes.stands_out(norm, step) for step, norm in enumerate(norms, 1)]


def test_what_stands_out_is_left_out_and_does_not_become_usual():
    spikes = Spikes(10.0, patience=3)
    assert fed(spikes, *[1.0] * KNOWN) == [False] * KNOWN
    assert fed(spikes, 9.0, 11.0, float("nan"), 2.0, float("inf")) == [False, True, True, False, True]
    assert spikes.skipped == 3
    assert max(spikes.norms) == 9.0
    assert not Spikes(None, 1).stands_out(float("nan"), 1)


def test_nothing_stands_out_before_enough_is_known_but_what_is_not_finite():
    assert fed(Spikes(2.0, patience=3), 1.0, 50.0, float("nan"), 1.0) == [False, False, True, False]


def test_step_after_step_left_out_ends_the_run():
    with pytest.raises(DilaError, match="3 steps in a row up to step 3 had gradient norms that were not finite"):
        fed(Spikes(10.0, patience=3), *[float("nan")] * 3)


def test_a_resumed_judge_judges_as_before():
    one, other = Spikes(3.0, 5), Spikes(3.0, 5)
    fed(one, *[1.0] * 30, 7.0)
    other.load_state_dict(one.state_dict())
    assert fed(one, 2.0, 4.0) == fed(other, 2.0, 4.0)
    assert one.state_dict() == other.state_dict()
    Spikes(3.0, 5).load_state_dict({})  # of a checkpoint from before there were any


def broken_at(monkeypatch, *steps):
    """Make the loss of some steps infinite."""
    compute = loop.Learner.forward
    count = iter(range(1, 1000))

    def forward(self, *batch):
        outcome = compute(self, *batch)
        return outcome._replace(total=outcome.total * float("inf")) if next(count) in steps else outcome

    monkeypatch.setattr(loop.Learner, "forward", forward)


def test_a_run_leaves_out_what_is_not_finite_counts_it_and_goes_on(corpus, cache, tmp_path, monkeypatch):
    run = small_run(guard=Guard(spike=10.0))
    broken_at(monkeypatch, 3)
    end = train(run, corpus, tmp_path / "out", cache_dir=cache, progress=False)
    counts = [record["skipped_steps"] for record in read_log(tmp_path / "out") if record["kind"] == "train"]
    assert counts == [0, 0, 1, 1, 1, 1]
    assert all(bool(x.isfinite().all()) for x in load_pretrained(end).model.parameters())


def test_without_the_switch_the_first_such_step_ends_the_run(corpus, cache, tmp_path, monkeypatch):
    broken_at(monkeypatch, 3)
    with pytest.raises(DilaError, match="not finite at step 3"):
        train(small_run(), corpus, tmp_path / "out", cache_dir=cache, progress=False)


def test_a_deterministic_run_is_the_same_twice_and_leaves_no_trace(corpus, cache, tmp_path):
    run = small_run(deterministic=True)
    ends = [train(run, corpus, tmp_path / name, cache_dir=cache, progress=False) for name in ("a", "b")]
    one, other = (load_pretrained(end).model.state_dict() for end in ends)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()


def test_ways_of_sharing_a_model_that_checkpoints_know_nothing_of_are_refused(monkeypatch):
    import accelerate

    class Sharded:
        def __init__(self, **_):
            self.distributed_type = accelerate.DistributedType.FSDP

    monkeypatch.setattr(accelerate, "Accelerator", Sharded)
    with pytest.raises(DilaError, match="configured for FSDP"):
        accelerator_of(small_run())


@pytest.mark.parametrize("objective", [OneStep(), Rollout()])
def test_half_the_bits_give_nearly_the_same_losses_and_gradients(objective):
    torch.manual_seed(0)
    model = replace(small_model(), dropout=0.0)
    model = replace(model, idm=replace(model.idm, dropout=0.0), fdm=replace(model.fdm, dropout=0.0))
    learner = loop.Learner(DiLA(model), objective, "fp32")
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    e = torch.randn(4, 6, 4, 4, 8)
    grads, losses = {}, {}
    for precision in ("fp32", "bf16"):
        learner.precision = precision
        learner.zero_grad()
        outcome = learner(e)
        outcome.total.backward()
        losses[precision] = outcome.total.item()
        grads[precision] = torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    agreement = torch.nn.functional.cosine_similarity(grads["bf16"], grads["fp32"], dim=0)
    assert agreement > 0.98


def test_bf16_trains_to_about_the_same_losses_as_fp32(corpus, cache, tmp_path):
    totals = {}
    for precision in ("fp32", "bf16"):
        run = small_run(precision=precision, stages=(Stage(OneStep(), steps=12),), optimiser=Optimiser(lr=1e-3))
        train(run, corpus, tmp_path / precision, cache_dir=cache, progress=False)
        totals[precision] = [r["total"] for r in read_log(tmp_path / precision) if r["kind"] == "train"]
    assert totals["bf16"] == pytest.approx(totals["fp32"], rel=0.05)
