import copy
from dataclasses import replace

import pytest
import torch
from train_world import small_model

from dila.model.config import Discrete
from dila.model.dila import DiLA
from dila.nn.bottleneck import Codebook
from dila.nn.real_actions import mean_and_std
from dila.train.learner import Learner, make_optimiser, recompute_layers
from dila.train.objectives import OneStep, Rollout
from dila.train.run import Optimiser


def test_vectors_and_the_memorys_rates_do_not_decay():
    model = DiLA(small_model())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, spared = make_optimiser(model, Optimiser(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    kept = {names[id(parameter)] for parameter in spared["params"]}
    assert any(name.endswith("A_log") for name in kept)
    assert any(name.endswith(".D") for name in kept)
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_the_papers_optimiser_decays_everything():
    (group,) = make_optimiser(DiLA(small_model()), Optimiser(weight_decay=0.1, decay_norms=True)).param_groups
    assert len(group["params"]) == len(list(DiLA(small_model()).parameters()))


def test_raw_actions_give_the_same_latents_and_leave_no_trace():
    model = DiLA(small_model(real_action_dim=3))
    learner = Learner(model, OneStep(), "fp32", 3)
    raw = torch.randn(2, 4, 3) * 100 + 300
    mean, std = raw.flatten(0, 1).mean(0), raw.flatten(0, 1).std(0)
    learner.scale_actions(mean, std, trained=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    standard = model.encode_actions((raw - mean) / std)
    with learner.raw_actions() as exported:
        torch.testing.assert_close(exported.encode_actions(raw), standard, atol=1e-4, rtol=1e-4)
        weights = {name: tensor.clone() for name, tensor in exported.state_dict().items()}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    again = DiLA(small_model(real_action_dim=3))
    again.load_state_dict(weights)
    Learner(again, OneStep(), "fp32", 3).scale_actions(mean, std, trained=True)
    torch.testing.assert_close(again.encode_actions((raw - mean) / std), standard, atol=1e-4, rtol=1e-4)


def test_a_component_that_never_changes_is_left_in_its_units():
    mean, std = mean_and_std(torch.tensor([[1.0, 300.1], [3.0, 300.1], [5.0, 300.1]]))
    assert mean.tolist() == [3.0, pytest.approx(300.1)]
    assert std.tolist() == [2.0, 1.0]
    assert mean_and_std(torch.tensor([[7.0]]))[1].tolist() == [1.0]


def test_recomputed_layers_give_the_same_loss_and_gradients(small_config, awake, clip):
    e = clip(4)
    model = awake(replace(small_config, dropout=0.2))
    other = copy.deepcopy(model)
    recompute_layers(other)
    for stage in (OneStep(), Rollout()):
        for each in (model, other):
            torch.manual_seed(3)
            each.train().zero_grad()
            Learner(each, stage, "fp32")(e).total.backward()
        for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
            if mine.grad is not None:
                torch.testing.assert_close(theirs.grad, mine.grad, msg=name)
    assert list(other.state_dict()) == list(model.state_dict())


def test_a_model_without_layers_of_ours_is_told(caplog):
    recompute_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    assert "recompute has no effect: Sequential has no layers from the dila package" in caplog.text
    caplog.clear()
    recompute_layers(DiLA(small_model()))
    assert "has no effect" not in caplog.text


def test_a_codebook_counts_its_uses_once_when_layers_are_run_again(small_config, clip):
    model = DiLA(replace(small_config, action_dim=8, bottleneck=Discrete(codes=4, tokens=2)))
    recompute_layers(model)
    Learner(model, OneStep(), "fp32")(clip(3)).total.backward()
    (codebook,) = (module for module in model.modules() if isinstance(module, Codebook))
    assert int(codebook.usage.sum()) == 2 * 2 * 2
