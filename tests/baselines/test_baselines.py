from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from dila.baselines.presets import BASELINES, baseline
from dila.errors import DilaError
from dila.imagine.rollout import rollout
from dila.imagine.transfer import cycle
from dila.interop.models import build
from dila.model.dila import repeat_state
from dila.protocols import LatentActionModel
from dila.train.learner import Learner, recompute_layers
from dila.train.objectives import Batch
from dila.train.published import Published

GRID, D = (4, 6), 10

SMALL = {
    "lapa": {"width": 16, "heads": 2, "head_dim": 8, "spatial_depth": 1, "temporal_depth": 1, "decoder_depth": 1},
    "moto": {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1},
    "adaworld": {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1},
    "villax": {
        "width": 16, "heads": 2, "encoder_depth": 1, "decoder_width": 16, "decoder_heads": 2, "decoder_hidden": 24,
        "decoder_depth": 1,
    },
}  # fmt: skip


def config_of(name, **changes):
    return replace(
        BASELINES[name]["tiny"], grid=GRID, feature_dim=D, **{"predicts": "features"} | SMALL[name] | changes
    )


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return build(config_of(name)).eval()


@pytest.fixture
def e():
    return torch.randn(3, 5, *GRID, D)


def test_it_has_the_verbs_and_their_shapes(model, e):
    assert isinstance(model, LatentActionModel)
    z, made = model.infer(e), model(e)
    assert z.shape == (3, 4, model.config.action_dim)
    assert made.e_hat.shape == (3, 4, *GRID, D)
    torch.testing.assert_close(made.z, z)
    assert rollout(model, e[:, :2], z).shape == (3, 4, *GRID, D)
    assert cycle(model, e, e.flip(0), 5).back.shape == (3, 4, *GRID, D)
    assert repeat_state(model.start(e), 2).shape == (6, *GRID, D)


def test_a_step_from_true_frames_is_the_teacher_forced_prediction(model, e):
    made = model(e)
    for k in range(4):
        _, e_hat = model.step(model.start(e[:, : k + 1]), made.z[:, k])
        torch.testing.assert_close(e_hat, made.e_hat[:, k], atol=1e-5, rtol=1e-4)


def test_an_action_knows_its_two_frames_and_no_later_one(name, model, e):
    other = torch.cat([e[:, :3], torch.randn_like(e[:, 3:])], dim=1)
    torch.testing.assert_close(model.infer(other)[:, :2], model.infer(e)[:, :2])
    alone = model.infer(e[:, 2:4])[:, 0]
    assert torch.allclose(alone, model.infer(e)[:, 2], atol=1e-5) or name == "villax"  # which reads the clip so far


def test_nothing_passes_around_z(model, e):
    """With z fixed the prediction depends on the frame before it and on no other, least of all on its target."""
    z = model.infer(e).detach()
    e.requires_grad_()
    drawn = model.draw(e[:, :-1], z)[:, 1]
    (grad,) = torch.autograd.grad(drawn.square().sum() + 0 * e.sum(), e)
    assert grad[:, [0, 2, 3, 4]].abs().max() == 0
    with torch.no_grad():  # LAPA's decoder cuts the gradient of all frames: there the values have to tell
        others, before = torch.randn_like(e), torch.randn_like(e)
        others[:, 1], before[:, [0, 2, 3, 4]] = e[:, 1], e[:, [0, 2, 3, 4]]
        torch.testing.assert_close(model.draw(others[:, :-1], z)[:, 1], drawn)
        assert not torch.allclose(model.draw(before[:, :-1], z)[:, 1], drawn)


def test_the_target_is_seen_through_z_in_training(model, e):
    e.requires_grad_()
    made = model.train()(e)
    (grad,) = torch.autograd.grad(made.e_hat[:, 1].square().sum(), e)
    assert grad[:, 2].abs().max() > 0


@pytest.mark.parametrize("name", ["lapa", "moto", "villax"])
def test_an_action_is_some_entries_of_the_codebook(name):
    config = config_of(name, codes=3, code_dim=2, **({"code_grid": (1, 2)} if name == "lapa" else {"queries": 2}))
    model, e = build(config), torch.randn(40, 6, *GRID, D)
    with torch.no_grad():
        model.squeeze(e)
        model.vq.entries.copy_(model.vq.without_dead(model.vq.entries))  # unused entries become inputs
        out = model.eval().squeeze(e)
    assert torch.equal(out.z.unflatten(-1, (2, 2)), model.vq.entries[out.codes])
    assert 1 < len(out.z.flatten(0, 1).unique(dim=0)) <= 3**2


def test_adaworlds_action_is_drawn_in_training_only(e):
    model = build(config_of("adaworld"))
    assert not torch.equal(model.infer(e), model.infer(e))
    model.eval()
    assert torch.equal(model.infer(e), model.infer(e))


def test_lapas_decoder_gives_the_first_frames_patches_no_gradient(e):
    model = build(config_of("lapa"))
    z = torch.randn(3, 4, model.config.action_dim)
    model.draw(e[:, :-1], z).square().sum().backward()
    assert all(parameter.grad is None for parameter in model.to_tokens.parameters())


@pytest.mark.parametrize("predicts", ["change", "unit"])
def test_heads_begin_at_the_frame_before_or_stay_in_the_unit_interval(name, predicts, e):
    e_hat = build(config_of(name, predicts=predicts))(10 * e).e_hat
    if predicts == "change":
        torch.testing.assert_close(e_hat, 10 * e[:, :-1])
    else:
        assert 0 <= e_hat.min() < e_hat.max() <= 1


@pytest.mark.parametrize("grid", [(8, 8), (3, 5), (16, 16), (1, 2)])
def test_any_grid_will_do(name, grid):
    model = build(config_of(name).for_features(grid, 4))
    assert model(torch.randn(1, 2, *grid, 4)).e_hat.shape == (1, 1, *grid, 4)


def test_recomputed_layers_give_the_same_gradients(name, e):
    whole, again = build(config_of(name)), build(config_of(name))
    again.load_state_dict(whole.state_dict())
    recompute_layers(again)
    for model in (whole, again):
        torch.manual_seed(1)
        Learner(model, Published(), "fp32")(e).total.backward()
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_it_overfits_eight_clips(name):
    """Each clip is a random picture that one of two shifts moves on: a frame and a code say the next one."""
    model = build(config_of(name, predicts="change"))
    first, by = torch.randn(8, 1, *GRID, D), 2 * torch.randn(2, D)
    e = torch.cat([first, first + by[torch.randint(2, (8, 3))].cumsum(1)[:, :, None, None]], dim=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        Published()(model, Batch(e)).total.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        error = (model(e).e_hat - e[:, 1:]).square().mean() / (e[:, 1:] - e[:, :-1]).square().mean()
    assert error < 0.3


def test_an_action_encoder_where_asked_for(name):
    model = build(config_of(name, real_action_dim=3))
    assert model.encode_actions(torch.randn(2, 4, 3)).shape == (2, 4, model.config.action_dim)
    with pytest.raises(DilaError, match="actions have 5 numbers, but the model's have 3"):
        model.encode_actions(torch.randn(2, 4, 5))
    with pytest.raises(DilaError, match="has no encoder of real actions"):
        build(config_of(name)).encode_actions(torch.randn(2, 4, 3))


def test_published_sizes_of_z():
    z = {name: sizes["published"].action_dim for name, sizes in BASELINES.items()}
    assert z == {"lapa": 128, "moto": 256, "adaworld": 32, "villax": 512}


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("genie", "tiny", "no baseline 'genie': choose one of lapa, moto"),
        ("lapa", "huge", "no size 'huge': choose one"),
    ],
)
def test_unknown_names_are_told_the_known(name, size, told):
    with pytest.raises(DilaError, match=told):
        baseline(name, size)


@pytest.mark.parametrize("size", ["published", "small", "tiny"])
def test_every_preset_runs_through(name, size, monkeypatch):
    """On the meta device: shapes without numbers. It has no autocast."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    config = BASELINES[name][size]
    if name == "moto":
        config = replace(config, reads=None)  # to be loaded; test_moto.py has a small one
    with torch.device("meta"):
        made = build(config).eval()(torch.empty(1, 3, *config.grid, config.feature_dim))
    assert made.e_hat.shape == (1, 2, *config.grid, config.feature_dim)
    assert made.z.shape == (1, 2, config.action_dim)
