"""Structure learns to go where true actions take it, and nothing else learns."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from dila.imagine.layout import Layout
from dila.imagine.rollout import rollout
from dila.model.config import Discrete
from dila.train.layout import fit_layout, layout_error, layout_loss
from dila.train.run import Optimiser


@pytest.fixture
def model(small_config, awake):
    return awake(replace(small_config, real_action_dim=3))


@pytest.fixture
def moving(model, clip):
    """Structure that drifts by a fixed map of the actions, in odd units."""
    a = torch.randn(24, 4, 3)
    drift = (a @ torch.randn(3, 6))[:, :, None, None].expand(-1, -1, 4, 6, -1)
    start = Layout(model).read(clip(1, 24)).detach()
    s = torch.cat([start, start + 0.3 * drift.cumsum(1)], dim=1)
    return s, a * torch.tensor([100.0, 1.0, 0.01]) + torch.tensor([300.0, 0.0, 0.0])


def test_the_loss_is_the_error_of_the_rollout_from_the_context(model, clip):
    e, a = clip(5, 2), torch.randn(2, 4, 3)
    s = Layout(model).read(e)
    z = model.encode_actions(a)
    layout = Layout(model)
    layout.start = lambda e: Layout.start(layout, e, z[:, :1])
    s_hat = rollout(layout, e[:, :2], z[:, 1:])
    expected = (s_hat - s[:, 2:]).square().mean() / (s[:, 2:] - s[:, 1:2]).square().mean()
    torch.testing.assert_close(layout_loss(model, s, a), expected, atol=1e-4, rtol=1e-4)


def test_a_model_that_stays_where_it_is_scores_one(model, moving, monkeypatch):
    monkeypatch.setattr(model, "move", lambda s, z, past: (s, past))
    assert float(layout_loss(model, *moving).detach()) == pytest.approx(1.0)


def test_it_learns_in_any_units_and_leaves_the_rest_alone(model, moving):
    before = {name: parameter.clone() for name, parameter in model.state_dict().items()}
    losses = fit_layout(model, *moving, Optimiser(5e-3, clip=1.0), 60, 12, "fp32", 0, progress=False)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    after = model.state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"fdm", "action_encoder"}
    # Afterwards it takes actions in their own units.
    assert float(layout_loss(model, *moving).detach()) < 0.6 * losses[0]


def test_the_error_of_many_clips_is_that_of_all_at_once(model, moving, monkeypatch):
    expected = float(layout_loss(model, *moving).detach())
    for batch in (5, 24, 100):  # the last of five is of four
        monkeypatch.setattr("dila.train.layout.BATCH", batch)
        assert layout_error(model, *moving) == pytest.approx(expected, rel=1e-5)


def test_the_dynamics_drop_out_while_they_learn_and_not_afterwards(small_config, awake, moving):
    model, modes = awake(replace(small_config, fdm=replace(small_config.fdm, dropout=0.5))), []
    model.fdm.register_forward_hook(lambda fdm, *_: modes.append({part.training for part in fdm.modules()}))
    state = torch.get_rng_state()
    losses = [fit_layout(deepcopy(model), *moving, Optimiser(1e-9), 2, 24, "fp32", 0, progress=False) for _ in range(2)]
    assert torch.equal(*losses)  # dropout is seeded, and leaves no trace
    assert torch.equal(torch.get_rng_state(), state)
    fit_layout(model, *moving, Optimiser(1e-9), 1, 24, "fp32", 0, progress=False)
    assert modes[-1] == {True}
    assert not any(part.training for part in model.modules())


def test_an_action_encoder_learns_through_codes_and_the_codes_stay(small_config, awake, moving):
    config = replace(small_config, real_action_dim=3, action_dim=8, bottleneck=Discrete(codes=4, tokens=2))
    model = awake(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit_layout(model, *moving, Optimiser(1e-3, weight_decay=0.0), 3, 12, "fp32", 0, progress=False)
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)
    }
    assert changed == {"fdm", "action_encoder"}
    assert not torch.equal(before["action_encoder.2.weight"], model.action_encoder[2].weight)


def test_it_learns_where_the_model_is(model, monkeypatch):
    """Shapes alone, on a device that refuses whatever is on another."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    s, a = torch.zeros(24, 5, 4, 6, 6), torch.zeros(24, 4, 3)
    losses = fit_layout(model.to("meta"), s, a, Optimiser(1e-3), 2, 4, "fp32", 0, progress=False)
    assert losses.device.type == "meta"


def test_the_same_seed_gives_the_same_model(small_config, awake, moving):
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        model = awake(small_config)
        made.append(fit_layout(model, *moving, Optimiser(1e-3), 3, 4, "fp32", 5, progress=False))
    assert torch.equal(*made)
