from dataclasses import asdict, dataclass, fields, replace

import pytest
import torch

from dila.errors import DilaError
from dila.model.dila import DiLA
from dila.train.objectives import ActionConditioned, Batch, OneStep, Rollout, Terms, Weights

STAGES = [OneStep, Rollout, ActionConditioned]
NAMES = [field.name for field in fields(Weights) if field.name != "kl"]
"""Of all terms but a Gaussian bottleneck's, for which see tests/model/test_bottleneck.py."""


@pytest.fixture
def model(small_config, awake):
    return awake(small_config)


@pytest.fixture
def batch(clip):
    return Batch(clip(5), torch.randn(2, 4, 3))


@pytest.mark.parametrize("stage", STAGES)
def test_losses_have_the_names_of_their_weights_and_sum_to_the_total(stage, model, batch):
    out = stage()(model, batch)
    assert sorted(out.losses) == sorted(NAMES)
    assert all(loss.isfinite() and loss.ndim == 0 for loss in out.losses.values())
    expected = sum(weight * out.losses[name] for name, weight in asdict(Weights()).items() if name in NAMES)
    torch.testing.assert_close(out.total, expected)


@pytest.mark.parametrize("name", NAMES)
def test_weight_of_zero_leaves_its_term_out(name, model, batch):
    out = OneStep(Terms(Weights(**{name: 0.0})))(model, batch)
    assert sorted(out.losses) == sorted(set(NAMES) - {name})


def test_a_penalty_of_ones_own_needs_a_weight_of_its_name(model, batch):
    @dataclass(frozen=True)
    class OwnWeights(Weights):
        sphere: float = 0.5

    model.penalty = "sphere"
    with pytest.raises(DilaError, match="has a term 'sphere', for which Weights has no weight; give the objective"):
        OneStep()(model, batch)
    assert "sphere" in OneStep(Terms(OwnWeights()))(model, batch).losses


def test_zero_weights_spare_the_second_reading_of_the_idm(model, batch):
    calls = []
    model.idm.register_forward_hook(lambda *_: calls.append(1))
    OneStep(Terms(Weights(action=0.0, symmetry=0.0)))(model, batch)
    assert len(calls) == 1
    OneStep()(model, batch)
    assert len(calls) == 3


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_it_uses_gets_a_gradient(stage, model, batch):
    stage()(model, batch).total.backward()
    without = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == (set() if stage is ActionConditioned else {"action_encoder"})


def test_the_action_encoder_learns(model, batch):
    """In the released third stage it never changes."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    before = model.action_encoder[0].weight.detach().clone()
    ActionConditioned()(model, batch).total.backward()
    optimiser.step()
    assert (model.action_encoder[0].weight - before).abs().max() > 1e-6


@pytest.mark.parametrize("detach", [False, True])
def test_detaching_the_structure_stops_the_gradient_of_the_target(detach, model, batch):
    e = batch.e.requires_grad_()
    only = Weights(feature=0.0, structure=1.0, action=0.0, diversity=0.0, norm=0.0, symmetry=0.0)
    fdm_out = model.fdm.register_forward_hook(lambda module, args, out: (out[0].detach(), out[1]))
    total = OneStep(Terms(only, detach_structure=detach))(model, Batch(e)).total
    fdm_out.remove()
    assert total.requires_grad is not detach


def test_one_step_is_the_models_own_teacher_forcing(model, batch):
    out, prediction = OneStep()(model, batch), model(batch.e)
    torch.testing.assert_close(out.losses["feature"], (prediction.e_hat - batch.e[:, 1:]).square().mean())
    torch.testing.assert_close(out.z, prediction.z)


def test_one_step_that_is_shown_all_draws_from_the_true_structure(model, batch):
    out, seen = OneStep(shown=1.0)(model, batch), model.observe(batch.e)
    e_hat, _ = model.decoder(seen.s[:, 1:], seen.c_mem[:, :-1], model.decoder.origin(batch.e[:, 0]))
    torch.testing.assert_close(out.losses["feature"], (e_hat - batch.e[:, 1:]).square().mean())
    half, none = OneStep(shown=0.5)(model, batch), OneStep()(model, batch)
    assert half.losses["feature"] not in (out.losses["feature"], none.losses["feature"])


def test_rollout_of_one_transition_is_one_step(model, clip):
    batch = Batch(clip(2))
    rollout, one = Rollout()(model, batch), OneStep()(model, batch)
    for name in NAMES:
        torch.testing.assert_close(rollout.losses[name], one.losses[name])
    longer = Batch(clip(4))
    assert not torch.isclose(Rollout()(model, longer).losses["feature"], OneStep()(model, longer).losses["feature"])


def test_rollout_sends_gradients_through_the_whole_way(model, clip):
    e = clip(5).requires_grad_()
    only = Weights(structure=0.0, action=0.0, diversity=0.0, norm=0.0, symmetry=0.0)
    Rollout(Terms(only))(model, Batch(e)).total.backward()
    assert e.grad[:, 0].abs().max() > 0


def test_action_conditioned_ignores_frames_after_the_context(model, batch):
    """What it draws depends on actions alone; the later frames are targets."""
    drawn = []
    model.decoder.register_forward_hook(lambda module, args, out: drawn.append(out[0].detach()))
    ActionConditioned()(model, batch)
    first, other = drawn.copy(), Batch(torch.cat([batch.e[:, :2], torch.randn_like(batch.e[:, 2:])], 1), batch.a)
    drawn.clear()
    ActionConditioned()(model, other)
    assert len(first) == len(drawn) == 1 + 3
    for mine, theirs in zip(drawn, first, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


def test_symmetry_reverses_the_clip_and_the_released_does_not(small_config, awake, clip):
    model = awake(replace(small_config, idm=replace(small_config.idm, pairwise=False)))
    ours, released = OneStep()(model, Batch(clip(5))), OneStep(Terms(as_released=True))(model, Batch(clip(5)))
    assert ours.losses["symmetry"] != released.losses["symmetry"]
    e = clip(4)
    s = model.observe(e).s.detach()
    ds = s[:, 1:] - s[:, :-1]
    forward, backward = model.idm(ds), model.idm(-ds.flip(1)).flip(1)
    cosine = torch.nn.functional.cosine_similarity(forward, backward, dim=-1)
    expected = (cosine + 1).square().mean()
    torch.testing.assert_close(OneStep(Terms(moving=0.0))(model, Batch(e)).losses["symmetry"], expected)


def test_a_still_clip_has_no_symmetry_loss(small_config, awake):
    model = awake(replace(small_config, time_padding="replicate"))
    still = torch.randn(1, 1, 4, 6, 24).expand(2, 3, -1, -1, -1)
    with torch.no_grad():
        model.fdm.to_change[3].weight.zero_()
        seen = model.observe(still)
    assert (seen.s[:, 1:] - seen.s[:, :-1]).abs().max() < 1e-4
    assert OneStep(Terms(as_released=True))(model, Batch(still)).losses["symmetry"] == 0


def test_motion_weights_the_tokens_that_changed(model, clip):
    batch = Batch(clip(4))
    plain, weighted = OneStep()(model, batch), OneStep(Terms(motion=3.0))(model, batch)
    assert plain.losses["feature"] != weighted.losses["feature"]
    assert plain.losses["structure"] == weighted.losses["structure"]


def test_two_frames_give_finite_losses_and_gradients(small_config, clip):
    model = DiLA(small_config)
    out = OneStep()(model, Batch(clip(2, batch=1)))
    out.total.backward()
    assert out.losses["diversity"].item() == pytest.approx(0.5)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
