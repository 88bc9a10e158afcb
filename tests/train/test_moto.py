"""Moto as published, trained through the same run: frozen ViT-MAE in, pixels out, LPIPS where it is."""

import pytest
import torch
from train_world import small_run

from dila.baselines.moto import Moto, MotoConfig
from dila.errors import DilaError
from dila.imagine.world import World
from dila.interop.pretrained import load_pretrained
from dila.train import published
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import Batch
from dila.train.published import Published, PublishedWeights
from dila.train.run import Stage


@pytest.fixture
def config(mae_folder):
    sizes = {"encoder_depth": 1, "decoder_depth": 1, "queries": 2, "lift": 6}
    return MotoConfig((2, 2), 192, 16, 2, **sizes, reads=str(mae_folder), reads_dim=32)


@pytest.fixture
def nearness(monkeypatch):
    """In place of LPIPS, which is not here: the squared difference of frames."""
    monkeypatch.setattr(published, "find_lpips", lambda device, net: lambda x, y: (x - y).square().mean((2, 3, 4)))
    published._lpips.cache_clear()
    yield
    published._lpips.cache_clear()


def test_it_trains_saves_and_has_every_verb_of_a_world(config, corpus, tmp_path):
    encoder = {"name": "pixels", "size": 16, "patch": 8}
    run = small_run(model=config, stages=(Stage(Published(), 3),), guard=None, encoder=encoder)
    end = train(run, corpus, tmp_path / "out", cache_dir=tmp_path / "cache", progress=False)
    world = World(*load_pretrained(end))
    assert isinstance(world.model, Moto)
    frames = torch.randint(0, 256, (4, 3, 16, 16)).byte()
    assert world.infer(frames).shape == (3, 64)
    assert world.draw(world.rollout(frames)).shape == (3, 3, 16, 16)
    assert world.cycle(frames, frames.flip(0)).back.shape == (3, 2, 2, 192)
    assert {"feature", "commitment"} <= next(r for r in read_log(tmp_path / "out") if r["kind"] == "train").keys()


def test_lpips_is_a_term_with_a_gradient(config, nearness):
    e = torch.rand(2, 3, 2, 2, 192)
    model = Moto(config).eval()
    out = Published(PublishedWeights(feature=0.0, commitment=0.0, lpips=2.0))(model, Batch(e))
    assert list(out.losses) == ["lpips"]
    torch.testing.assert_close(out.total, 2 * (model(e).e_hat - e[:, 1:]).square().mean())
    out.total.backward()
    assert model.head.to_features.weight.grad.abs().max() > 0


def test_lpips_that_is_not_here_is_asked_for_plainly(config, monkeypatch):
    monkeypatch.setattr(published, "find_lpips", lambda device, net: f"LPIPS is left out: {net}")
    published._lpips.cache_clear()
    weighed = Published(PublishedWeights(lpips=1.0))
    with pytest.raises(DilaError, match=r"LPIPS is left out: vgg; set .* weights\.lpips to 0"):
        weighed(Moto(config), Batch(torch.rand(1, 2, 2, 2, 192)))


def test_lpips_is_of_frames(nearness):
    features = Moto(MotoConfig((2, 2), 8, 16, 2, encoder_depth=1, decoder_depth=1))
    with pytest.raises(DilaError, match="features of 8 channels are not square patches of pixels"):
        Published(PublishedWeights(lpips=1.0))(features, Batch(torch.rand(1, 2, 2, 2, 8)))
