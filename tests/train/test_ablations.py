"""Runs of the ablations: they train, are saved, loaded and resumed, and codes that collapse are told of."""

import copy
from dataclasses import replace

import pytest
import torch
from train_world import small_model, small_run

from dila.errors import DilaError
from dila.interop.pretrained import load_pretrained
from dila.model.config import Discrete, Gaussian, NoAction, NoContent, WholeChange
from dila.model.dila import DiLA
from dila.recipes.ablations import ablated
from dila.train.learner import recompute_layers
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import Batch
from dila.train.run import Guard

KINDS = {
    "no-content": NoContent,
    "discrete": Discrete,
    "gaussian": Gaussian,
    "no-bottleneck": WholeChange,
    "no-action": NoAction,
}


def trained(name, corpus, cache, out, **changes):
    run = ablated(name, small_run(**{"evaluate_every": 6, **changes}))
    train(run, corpus, out, cache_dir=cache, progress=False)
    return run, read_log(out)


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_and_comes_back_as_it_was(name, corpus, cache, tmp_path):
    run, log = trained(name, corpus, cache, tmp_path / "run")
    steps = [record for record in log if record["kind"] == "train"]
    assert [record["step"] for record in steps] == list(range(1, 7))
    assert ("kl" in steps[0]) == (name == "gaussian")
    assert ("perplexity" in steps[0]) == (name == "discrete")
    seen = next(record for record in log if record["kind"] == "evaluation")
    assert seen["one_step_ratio"] > 0
    assert ("rollout_ratio" in seen) == (name != "no-action")
    model = load_pretrained(tmp_path / "run").model
    assert model.config == run.model
    assert KINDS[name] in {type(model.config.content), type(model.config.bottleneck)}
    e = torch.randn(2, 4, 4, 4, 8)
    again = load_pretrained(tmp_path / "run").model
    torch.testing.assert_close(model(e).e_hat, again(e).e_hat, rtol=0, atol=0)


def test_a_discrete_run_resumes_exactly(corpus, cache, tmp_path, monkeypatch):
    """Codes, their usage and the count of batches by which dead ones are replaced are all in the checkpoint."""
    whole, _ = trained("discrete", corpus, cache, tmp_path / "whole")
    from dila.train import loop

    half = replace(whole, checkpoint_every=3)
    write = loop.Trainer.save

    def save_and_die(self):
        write(self)
        if self.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(half, corpus, tmp_path / "half", cache_dir=cache, progress=False)
    monkeypatch.setattr(loop.Trainer, "save", write)
    train(half, corpus, tmp_path / "half", cache_dir=cache, progress=False)
    one, other = (load_pretrained(tmp_path / name).model.state_dict() for name in ("whole", "half"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert int(one["bottleneck.each.batches"]) == 6


def test_a_run_whose_codes_collapse_stops_and_says_so(corpus, cache, tmp_path):
    with pytest.raises(DilaError, match="latents collapsed: perplexity stayed below 100 for 2 logged steps"):
        trained("discrete", corpus, cache, tmp_path / "run", guard=Guard(perplexity=100.0, patience=2))


def test_rolling_out_without_actions_is_refused(corpus, cache, tmp_path):
    run = small_run(model=replace(small_model(), bottleneck=NoAction()))
    with pytest.raises(DilaError, match="trained without latent actions"):
        train(run, corpus, tmp_path / "run", cache_dir=cache, progress=False)


@pytest.mark.parametrize("name", KINDS)
def test_layers_that_run_again_give_the_same_gradients(name):
    run = ablated(name, small_run())
    model, batch = DiLA(run.model), Batch(torch.randn(2, 4, 4, 4, 8))
    gradients = []
    for prepare in (lambda model: None, recompute_layers):
        one = copy.deepcopy(model)
        prepare(one)
        torch.manual_seed(0)
        run.stages[0].objective(one, batch).total.backward()
        gradients.append([p.grad for p in one.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    torch.testing.assert_close(*gradients)
