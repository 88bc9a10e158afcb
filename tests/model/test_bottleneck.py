"""Each variant of table 2 and figure 5: that it is what it says, and that every verb works with it or refuses."""

from dataclasses import replace

import pytest
import torch

from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.imagine.isolate import isolate
from dila.imagine.layout import Layout
from dila.imagine.rebind import rebind
from dila.model.config import (
    BackboneConfig,
    DiLAConfig,
    Discrete,
    ForwardDynamicsConfig,
    FusionDecoderConfig,
    Gaussian,
    InverseDynamicsConfig,
    MemoryConfig,
    NoAction,
    NoContent,
    WholeChange,
)
from dila.model.dila import DiLA, repeat_state
from dila.protocols import LatentActionModel
from dila.train.objectives import ActionConditioned, Batch, OneStep, Rollout, Terms, Weights

ACTING = {
    "no content": {"content": NoContent()},
    "discrete": {"bottleneck": Discrete(codes=3, tokens=2)},
    "gaussian": {"bottleneck": Gaussian()},
    "whole": {"bottleneck": WholeChange()},
    "wide": {"action_dim": 40},
    "narrow": {"action_dim": 2},
    "both": {"content": NoContent(), "bottleneck": Discrete(codes=8, tokens=4)},
}
ALL = ACTING | {"no action": {"bottleneck": NoAction()}}
TOY = DiLAConfig(
    grid=(2, 2),
    feature_dim=8,
    structure_dim=6,
    content_dim=8,
    action_dim=8,
    mlp_hidden=16,
    dropout=0.0,
    backbone=BackboneConfig(1, 1, 2, 8),
    memory=MemoryConfig(depth=1, state_dim=4),
    idm=InverseDynamicsConfig(channels=(8,), blocks=(0,), hidden=16, dropout=0.0, pairwise=True),
    fdm=ForwardDynamicsConfig(dim=16, depth=1, heads=2, head_dim=8, dropout=0.0),
    decoder=FusionDecoderConfig(depth=1, heads=2, head_dim=8, predicts="change"),
)
ONLY_FEATURE = Terms(Weights(structure=0.0, action=0.0, diversity=0.0, norm=0.0, symmetry=0.0))


@pytest.fixture
def variant(small_config, awake):
    return lambda name: awake(replace(small_config, **ALL[name]))


@pytest.mark.parametrize("name", ALL)
def test_a_config_survives_json(name, small_config):
    config = replace(small_config, **ALL[name])
    assert from_json(DiLAConfig, to_json(config)) == config


def test_a_config_written_before_there_were_ablations_is_the_papers(small_config):
    old = {key: value for key, value in to_json(small_config).items() if key not in ("content", "bottleneck")}
    assert from_json(DiLAConfig, old) == small_config


def test_tokens_that_do_not_divide_z_are_refused(small_config):
    with pytest.raises(DilaError, match=r"action_dim = 8 must be a multiple of bottleneck\.tokens = 3"):
        replace(small_config, bottleneck=Discrete(tokens=3))


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("name", ACTING)
def test_a_rollout_told_the_true_frames_equals_teacher_forcing(name, context, variant, clip):
    model, e = variant(name), clip(6)
    with torch.no_grad():
        out, seen = model(e), model.observe(e)
        state, drawn = model.start(e[:, :context], out.z[:, : context - 1]), []
        for k in range(context - 1, 5):
            state, _, e_hat = model.imagine(state, out.z[:, k])
            state = model.absorb(state, e[:, k + 1], seen.s[:, k + 1])
            drawn.append(e_hat)
    torch.testing.assert_close(torch.stack(drawn, 1), out.e_hat[:, context - 1 :], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ACTING)
def test_candidates_share_a_context_and_structure_rolls_out_alone(name, variant, clip):
    model, e = variant(name), clip(4)
    assert isinstance(model, LatentActionModel)
    with torch.no_grad():
        z = model.infer(e)
        state = repeat_state(model.start(e[:, :2], z[:, :1]), 3)
        moved, e_hat = model.step(state, z[:, 1].repeat_interleave(3, dim=0))
        _, once = model.step(model.start(e[:, :2], z[:, :1]), z[:, 1])
        torch.testing.assert_close(e_hat, once.repeat_interleave(3, dim=0))
        layout = Layout(model)
        torch.testing.assert_close(layout.infer(e), z)
        _, s_hat = layout.step(layout.start(e[:, :2], z[:, :1]), z[:, 1])
    torch.testing.assert_close(moved.s[::3], s_hat)


@pytest.mark.parametrize("name", ACTING)
def test_nothing_of_the_target_passes_around_z(name, variant, clip):
    model, e = variant(name), clip(4).requires_grad_()
    z = model.infer(e).detach()
    model.predict(model.observe(e), e, z).e_hat[:, 1].sum().backward()
    moved = e.grad.abs().amax((0, 2, 3, 4)) > 0
    assert moved.tolist() == [True, True, False, False]


@pytest.mark.parametrize("objective", [OneStep(), Rollout(), ActionConditioned()])
@pytest.mark.parametrize("name", ACTING)
def test_every_objective_reaches_every_part(name, objective, variant, clip):
    model = variant(name).train()
    out = objective(model, Batch(clip(5), torch.randn(2, 4, 3)))
    out.total.backward()
    expected = {"feature", "structure", "action", "diversity", "norm", "symmetry"}
    assert out.losses.keys() == expected | ({"kl"} if name == "gaussian" else set())
    parts = [(name, list(module.parameters())) for name, module in model.named_children()]
    untouched = {name for name, parameters in parts if parameters and all(p.grad is None for p in parameters)}
    by_actions = isinstance(objective, ActionConditioned)
    if by_actions:  # which a Gaussian's z is not squeezed out of
        assert untouched == ({"bottleneck"} if name == "gaussian" else set())
    else:
        assert untouched == {"action_encoder"}


def test_without_content_the_decoder_sees_structure_and_the_first_frame(variant, clip):
    model, e = variant("no content"), clip(4)
    seen = model.observe(e)
    assert seen.c.shape[-1] == seen.c_mem.shape[-1] == 0
    assert not any(name.startswith(("content.", "memory.")) or "across_content" in name for name in model.state_dict())
    other = e + torch.randn_like(e)
    other[:, 0] = e[:, 0]
    drawn, again = (model.predict(model.observe(x)._replace(s=seen.s), x, model.infer(e)).e_hat for x in (e, other))
    torch.testing.assert_close(drawn, again)


def test_discrete_actions_are_entries_of_the_codebook(variant, clip):
    model = variant("discrete")
    tokens = model.infer(clip(40, batch=8)).unflatten(-1, (2, 4)).flatten(0, 1)
    entries = model.bottleneck.each.entries
    assert (tokens.reshape(-1, 1, 4) == entries).all(-1).any(-1).all()
    assert 1 < len(torch.unique(tokens.flatten(1), dim=0)) <= 3**2


def test_real_actions_become_discrete_too(variant):
    model = variant("discrete")
    z = model.encode_actions(torch.randn(2, 5, 3)).reshape(-1, 4)
    assert (z[:, None] == model.bottleneck.each.entries).all(-1).any(-1).all()


def test_the_gaussian_is_drawn_in_training_and_certain_afterwards(variant, clip):
    model, e = variant("gaussian"), clip(4)
    torch.testing.assert_close(model.infer(e), model.infer(e), rtol=0, atol=0)
    model.train()
    assert (model.infer(e) - model.infer(e)).abs().max() > 1e-3


def test_the_gaussians_penalty_is_a_loss_of_its_own_name(variant, clip):
    model, batch = variant("gaussian").train(), Batch(clip(4))
    losses = OneStep()(model, batch).losses
    assert losses["kl"] > 0
    only = replace(ONLY_FEATURE, weights=replace(ONLY_FEATURE.weights, feature=0.0, kl=2.0))
    out = OneStep(only)(model, batch)
    torch.testing.assert_close(out.total, 2 * out.losses["kl"])
    assert "kl" not in OneStep(Terms(Weights(kl=0.0)))(model, batch).losses


def test_the_whole_change_is_z_and_each_token_has_its_own_part(variant, clip):
    model, e = variant("whole"), clip(4)
    s = model.observe(e).s
    z = model.infer(e)
    assert model.config.action_dim == z.shape[-1] == 4 * 6 * 6
    torch.testing.assert_close(z, (s[:, 1:] - s[:, :-1]).flatten(2))
    assert replace(model.config, grid=(2, 3)).action_dim == 2 * 3 * 6


def test_without_action_the_decoder_is_shown_the_true_structure(variant, clip):
    model, e = variant("no action"), clip(4)
    out, seen = model(e), model.observe(e)
    torch.testing.assert_close(out.s_hat, seen.s[:, 1:])
    drawn, _ = model.decoder(seen.s[:, 1:], seen.c_mem[:, :-1], model.decoder.origin(e[:, 0]))
    torch.testing.assert_close(out.e_hat, drawn)
    assert not any(name.startswith(("idm.", "fdm.")) for name in model.state_dict())
    trained = OneStep(ONLY_FEATURE)(model, Batch(e))
    assert trained.losses.keys() == {"feature"}


def test_without_action_nothing_is_inferred_imagined_or_planned(variant, clip):
    model, e = variant("no action"), clip(4)
    refused = pytest.raises(DilaError, match="trained without latent actions, so it can neither infer nor follow them")
    with refused:
        model.infer(e)
    with refused:
        model.step(model.start(e[:, :2]), torch.zeros(2, model.config.action_dim))
    with refused:
        Layout(model)
    with refused:
        Rollout()(model, Batch(e))
    assert rebind(model, e, e.flip(0)).e.shape == isolate(model, e).e.shape == e[:, 1:].shape


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"wide"}))
def test_it_overfits_four_clips(name):
    """Four clips whose features drift, each its own way: to half the error of copying the first frame."""
    model = DiLA(replace(TOY, **ALL[name]))
    first, drift = torch.randn(4, 1, 2, 2, 8), torch.randn(4, 2, 1, 1, 8).cumsum(1)
    e = torch.cat([first, first + drift], dim=1)
    terms = ONLY_FEATURE if name == "no action" else Terms(Weights(structure=1.0, norm=0.0, symmetry=0.0))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(30):
        optimiser.zero_grad()
        OneStep(terms)(model, Batch(e)).total.backward()
        optimiser.step()
    copying = (e[:, 1:] - e[:, :1]).square().mean()
    with torch.no_grad():
        error = (model.eval()(e).e_hat - e[:, 1:]).square().mean()
    assert error < 0.5 * copying


@pytest.mark.parametrize("state", [{"e": torch.zeros(1)}, (torch.zeros(1), 3)])
def test_a_state_that_cannot_be_repeated_is_refused(state):
    with pytest.raises(DilaError, match=r"a model state contains a (dict|int); use only tensors, None and tuples"):
        repeat_state(state, 2)
