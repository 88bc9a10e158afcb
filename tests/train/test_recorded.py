"""On a GPU; elsewhere the tests are of the refusals."""

import copy
import signal
from dataclasses import replace

import pytest
import torch
from train_world import PatchConfig, PatchEncoder, small_model, small_run, write_corpus

from dila import vision
from dila.errors import DilaError
from dila.model.config import Discrete, Gaussian
from dila.model.dila import DiLA
from dila.train import loop
from dila.train.learner import Learner, make_optimiser
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import ActionConditioned, Batch, OneStep, Rollout
from dila.train.recorded import Recorded
from dila.train.run import Optimiser

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")


def test_a_batch_off_the_gpu_is_refused(clip):
    with pytest.raises(DilaError, match="graph needs CUDA"):
        Recorded(Learner(DiLA(small_model()), OneStep(), "fp32"), Batch(clip(3)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is recorded there")
def test_a_run_without_a_gpu_is_refused_before_it_writes(tmp_path):
    with pytest.raises(DilaError, match=r"on cpu; remove graph"):
        train(small_run(graph=True), write_corpus(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_layers_that_run_again_are_refused():
    with pytest.raises(DilaError, match="graph cannot be combined with recompute"):
        small_run(graph=True, recompute=True)


@on_a_gpu
def test_codes_are_refused(small_config, clip):
    model = DiLA(replace(small_config, action_dim=8, bottleneck=Discrete(codes=4, tokens=2))).cuda()
    with pytest.raises(DilaError, match="codebook"):
        Recorded(Learner(model, OneStep(), "fp32"), Batch(clip(3).cuda()))


@on_a_gpu
@pytest.mark.parametrize("stage", [OneStep(), Rollout(), ActionConditioned(context=1)], ids=repr)
@pytest.mark.parametrize("parts", [1, 2])
def test_replayed_gradients_are_those_of_a_call_whatever_batch_and_weights(small_config, awake, clip, stage, parts):
    """Those of both parts of a step; of the last batch where each is a step."""
    model = awake(small_config).cuda()
    a = torch.randn(2, 3, 3, device="cuda") if isinstance(stage, ActionConditioned) else None
    recorded = Recorded(Learner(model, stage, "fp32", 3).cuda().train(), Batch(clip(4).cuda(), a), share=1 / parts)
    other = copy.deepcopy(model).train()
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            theirs.copy_(mine.mul_(1.1))
    for call in range(2):
        if parts == 1 or call == 0:
            other.zero_grad(set_to_none=True)
        e = torch.randn_like(clip(4)).cuda()
        a = None if a is None else torch.randn_like(a)
        outcome, expected = recorded(Batch(e, a)), Learner(other, stage, "fp32", 3).cuda()(e, a)
        (expected.total / parts).backward()
        torch.testing.assert_close(outcome.total, expected.total, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(outcome.z, expected.z, atol=1e-4, rtol=1e-3)
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-3, msg=name)
    with pytest.raises(DilaError, match="record it again"):
        recorded(Batch(e[:1], None if a is None else a[:1]))


@on_a_gpu
def test_noise_is_drawn_anew_and_steps_teach(small_config, awake, clip):
    model = awake(replace(small_config, dropout=0.1, action_dim=8, bottleneck=Gaussian())).cuda()
    optimiser = make_optimiser(model, Optimiser())
    recorded = Recorded(Learner(model, OneStep(), "bf16").train(), Batch(clip(4).cuda()))
    losses = [float(recorded(recorded.batch).total) for _ in range(8)]
    assert len(set(losses)) > 4
    optimiser.zero_grad(set_to_none=False)
    for _ in range(60):
        losses.append(float(recorded(recorded.batch).total))
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


@on_a_gpu
def test_a_run_records_each_of_its_stages_and_goes_on_as_if_it_had_not_been_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(vision.ENCODERS, "patch", (PatchEncoder, PatchConfig))
    corpus, run = write_corpus(tmp_path / "data"), small_run(graph=True)
    train(run, corpus, tmp_path / "whole", cache_dir=tmp_path, progress=False)
    optimise = loop.Trainer._optimise

    def then_stop(self, parts, stage):
        result = optimise(self, parts, stage)
        if self.step + 1 == 3:
            self.stop.signal = signal.SIGTERM
        return result

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_optimise", then_stop)
        with pytest.raises(SystemExit):
            train(run, corpus, tmp_path / "parted", cache_dir=tmp_path, progress=False)
    train(run, corpus, tmp_path / "parted", cache_dir=tmp_path, progress=False)
    totals = [
        [record["total"] for record in read_log(tmp_path / name) if record["kind"] == "train"]
        for name in ("whole", "parted")
    ]
    assert totals[1] == pytest.approx(totals[0], rel=1e-4)
