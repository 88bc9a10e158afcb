"""Moto as published: a frozen ViT-MAE reads, pixels are drawn."""

from dataclasses import replace

import pytest
import torch

from dila.baselines.moto import Moto, MotoConfig
from dila.baselines.presets import BASELINES
from dila.errors import DilaError
from dila.vision import PatchesConfig, PatchPixels, ViTMAE, ViTMAEConfig

SIDE, PATCH = 32, 8


@pytest.fixture
def config(mae_folder):
    sizes = {"encoder_depth": 1, "decoder_depth": 1, "queries": 2, "lift": 6}
    return MotoConfig((SIDE // PATCH,) * 2, 3 * PATCH**2, 16, 2, **sizes, reads=str(mae_folder), reads_dim=32)


@pytest.fixture
def frames():
    return torch.randint(0, 256, (2, 4, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture
def e(frames):
    return PatchPixels(PatchesConfig(SIDE, PATCH)).encode(frames)


def test_the_queries_see_the_tokens_of_the_frames(config, frames, e, monkeypatch):
    model = Moto(config).eval()
    direct = ViTMAE(ViTMAEConfig(config.reads, size=SIDE, precision="bf16")).encode(frames)
    shown = []
    monkeypatch.setattr(model.to_tokens, "forward", lambda x: shown.append(x) or torch.zeros(*x.shape[:-1], 16))
    model.infer(e)
    torch.testing.assert_close(shown[0][:, 0], direct[:, :-1].flatten(0, 1).flatten(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shown[0][:, 1], direct[:, 1:].flatten(0, 1).flatten(1, 2), atol=1e-5, rtol=1e-5)


def test_pixels_are_drawn_and_drawn_ones_are_read_again(config, e):
    model = Moto(config).eval()
    made = model(e)
    assert made.e_hat.shape == (2, 3, 4, 4, 3 * PATCH**2)
    assert made.z.shape == (2, 3, 2 * 32)
    wild = torch.cat([e[:, :1], 3 * made.e_hat], dim=1)  # far beyond black and white
    torch.testing.assert_close(model.infer(wild), model.infer(wild.clamp(0, 1)))


def test_no_gradient_and_no_checkpoint_has_the_frozen_part(config, e):
    model = Moto(config)
    before = set(model.state_dict())
    e.requires_grad_()
    made = model(e)
    (grad,) = torch.autograd.grad(made.z.sum() + 0 * e.sum(), e)
    assert grad.abs().max() == 0
    assert set(model.state_dict()) == before
    with torch.device("meta"):
        light = Moto(replace(config, reads=None))
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in light.parameters()) == (
        (config.reads_dim - config.feature_dim) * config.width
    )


def test_one_that_is_not_to_be_had_is_asked_for_only_when_actions_are_inferred(config, e, tmp_path):
    model = Moto(replace(config, reads=str(tmp_path / "none"))).eval()
    z = torch.zeros(2, model.config.action_dim)
    assert model.step(model.start(e), z)[1].shape == (2, 4, 4, 3 * PATCH**2)
    with pytest.raises(DilaError, match="was not found on this disk or on the Hub"):
        model.infer(e)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grid": (8, 8), "feature_dim": 48}, "patches of 8 pixels, but the features are patches of 4; set --encoder"),
        ({"reads_dim": 64}, "gives 32 channels, but the model reads 64; set --model.reads-dim 32"),
        ({"feature_dim": 190}, "features of 190 channels are not square patches"),
    ],
)
def test_what_does_not_fit_is_told(config, changes, told):
    with pytest.raises(DilaError, match=told):
        _ = Moto(replace(config, **changes)).eyes


def test_what_does_not_fit_is_refused_before_anything_is_encoded(config):
    assert config.for_features((2, 3), 192).grid == (2, 3)
    with pytest.raises(DilaError, match="patches of 8 pixels, but the features are patches of 16"):
        config.for_features((2, 2), 768)
    with pytest.raises(DilaError, match="features of 272 channels are not square patches of pixels; use the"):
        config.for_features((8, 8), 272)


def test_the_published_one_reads_the_large_vit_mae():
    published = BASELINES["moto"]["published"]
    assert published.reads == "facebook/vit-mae-large"
    assert (published.reads_dim, published.lift) == (1024, 768)
