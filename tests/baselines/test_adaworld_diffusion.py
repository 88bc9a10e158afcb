import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from dila.baselines.adaworld import AdaWorldConfig
from dila.baselines.adaworld_diffusion import AdaWorldDiffusion, AdaWorldDiffusionConfig, published, tiny
from dila.errors import MissingExtra
from dila.imagine.rollout import rollout
from dila.model.dila import DiLA, count_parameters, repeat_state
from dila.model.presets import preset
from dila.protocols import LatentActionModel
from dila.recipes import recipe

TOY = AdaWorldDiffusionConfig(
    (4, 4),
    8,
    AdaWorldConfig((4, 4), 8, width=16, heads=2, encoder_depth=1, decoder_depth=1, action_dim=4, predicts="change"),
    context=2,
    channels=(32, 32),
    heads=(1, 1),
    blocks=1,
    picture_dim=8,
    noise=(0.0, 1.2),
    noise_limits=(0.02, 20.0),
    context_noise=0.1,
    guidance=1.0,
)


def parameters(config):
    with torch.device("meta"):
        model = AdaWorldDiffusion(config)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.fixture
def model():
    return AdaWorldDiffusion(TOY).eval()


@pytest.fixture
def e():
    return torch.randn(2, 4, 4, 4, 8)


@pytest.mark.parametrize("config", [published(), recipe("adaworld_diffusion_published").model])
def test_the_published_size_is_the_published_one(config):
    assert parameters(config) == pytest.approx(1.5e9, rel=0.05)


def test_the_tiny_one_fits_the_embedded_encoder_and_is_of_dilas_size():
    with torch.device("meta"):
        dila = count_parameters(DiLA(preset("tiny")))
    assert parameters(tiny()) == pytest.approx(dila, rel=0.1)


def test_has_the_verbs_and_infers_by_the_frozen_model(model, e):
    assert isinstance(model, LatentActionModel)
    torch.testing.assert_close(model.infer(e), model.lam.infer(e))
    assert model.infer(e).shape == (2, 3, 4)
    assert not any(p.requires_grad for p in model.lam.parameters())
    model.train()
    torch.testing.assert_close(model.infer(e), model.infer(e), rtol=0, atol=0)


@torch.no_grad()
def test_a_step_is_the_teacher_forced_sample(model, e):
    made = model(e)
    for k in range(3):
        _, e_hat = model.step(model.start(e[:, : k + 1]), made.z[:, k])
        torch.testing.assert_close(e_hat, made.e_hat[:, k], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sampling_is_certain_given_the_state_whatever_else_is_in_the_batch(model, e):
    z = model.infer(e)
    once = rollout(model, e[:, :1], z)
    assert once.shape == (2, 3, 4, 4, 8)
    torch.testing.assert_close(rollout(model, e[:, :1], z), once, rtol=0, atol=0)
    torch.testing.assert_close(rollout(model, e[1:, :1], z[1:]), once[1:], atol=1e-5, rtol=1e-4)
    state, _ = model.step(repeat_state(model.start(e[:, :1]), 3), z[:, 0].repeat_interleave(3, dim=0))
    assert state.seed.tolist() == [1] * 6
    other, _ = model.step(model.start(e[:, :1], seed=7), z[:, 0])
    assert (other.frames[:, -1] - state.frames[::3, -1]).abs().max() > 1e-3


@torch.no_grad()
def test_what_it_looks_back_on(model, e):
    state = model.start(e[:, :1])
    assert state.length.tolist() == [1, 1]
    assert not state.frames[:, 0].any()
    torch.testing.assert_close(model.start(e).frames, e[:, -2:])


def test_nothing_of_the_target_passes_around_z(model, e):
    e = e.requires_grad_()
    z = model.infer(e)
    _, e_hat = model.step(model.start(e[:, :2]), z[:, 1])
    e_hat.sum().backward()
    assert (e.grad.abs().amax((0, 2, 3, 4)) > 0).tolist() == [True, True, False, False]


@torch.no_grad()
def test_guidance_of_one_is_none(model, e):
    state, z = model.start(e[:, :2]), torch.randn(2, 4)
    _, plain = model.step(state, z)
    model.config = replace(TOY, guidance=2.0)
    _, guided = model.step(state, z)
    assert (plain - guided).abs().max() > 1e-4


def test_any_latent_action_model_can_give_the_actions(small_config, awake, clip):
    lam = awake(small_config)
    config = TOY.for_features((4, 6), 24)
    model = AdaWorldDiffusion(replace(config, lam=replace(config.lam, action_dim=8)), lam).train()
    assert isinstance(model.lam, DiLA)
    made = model(clip(3))
    made.penalties["denoising"].backward()
    assert all(p.grad is None for p in lam.parameters())
    assert all(p.grad is not None for p in model.network.parameters())


def test_without_diffusers_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingExtra, match="diffusion"):
        AdaWorldDiffusion(TOY)


class Told:
    """A latent action model that knows: z is how the first channels move."""

    def infer(self, e):
        return (e[:, 1:] - e[:, :-1]).mean((2, 3))[..., :4]

    def start(self, e):
        raise AssertionError("only its actions are asked for")

    step = start


def test_it_overfits_eight_clips_and_its_samples_beat_copying():
    first, way = torch.randn(8, 1, 4, 4, 8), torch.randn(8, 1, 1, 1, 8)
    e = torch.cat([first, first + way], dim=1)
    model = AdaWorldDiffusion(TOY, Told()).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(60):
        optimiser.zero_grad()
        model(e).penalties["denoising"].backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        sampled = rollout(model, e[:, :1], model.infer(e))
    assert (sampled - e[:, 1:]).square().mean() < 0.85 * way.square().mean()
