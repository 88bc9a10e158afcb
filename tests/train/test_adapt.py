"""A trained model learns what real actions mean."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from train_world import small_model, small_run

from dila.baselines.presets import BASELINES
from dila.cli.main import main
from dila.data import Clips, Corpus, open_corpus
from dila.data.relative import relative_actions
from dila.errors import DilaError
from dila.interop import find
from dila.interop.actions import LatentToAction, load_actions, r_squared
from dila.interop.pretrained import load_pretrained, save_pretrained
from dila.interop.seen import read_seen
from dila.model.config import Discrete, Gaussian
from dila.model.dila import DiLA
from dila.nn.real_actions import action_encoder, varying
from dila.train import adapt as module
from dila.train import layout
from dila.train.adapt import Adaptation, Pairs, _space, adapt, fit_encoder, score_encoder, with_encoder
from dila.train.loop import train
from dila.train.published import Published
from dila.train.run import Stage

QUICK = Adaptation(trajectories=4, fit_steps=30, layout_steps=2, steps=2, batch=4, precision="fp32")


@pytest.fixture(scope="module")
def trained(corpus, cache, tmp_path_factory):
    from train_world import PatchConfig, PatchEncoder

    from dila import vision

    vision.ENCODERS.setdefault(PatchEncoder.name, (PatchEncoder, PatchConfig))
    return train(small_run(), corpus, tmp_path_factory.mktemp("run") / "run", cache_dir=cache, progress=False)


@pytest.fixture(scope="module")
def adapted(trained, corpus, cache, tmp_path_factory):
    return adapt(trained, corpus, tmp_path_factory.mktemp("adapted"), QUICK, cache_dir=cache, progress=False)


def pairs(rows=400, scale=(100.0, 0.01), shift=(300.0, 0.0)):
    """Actions in odd units, and latent ones that are a curved function of them."""
    unit = torch.randn(rows, 2)
    z = torch.tanh(unit @ torch.randn(2, 5)) * 0.3
    return Pairs(unit * torch.tensor(scale) + torch.tensor(shift), z, torch.arange(rows) // 20)


def test_the_encoder_takes_actions_in_their_own_units():
    made = pairs()
    state = torch.get_rng_state()
    encoder = fit_encoder(made, 5, Adaptation(fit_steps=800))
    assert torch.equal(torch.get_rng_state(), state)
    assert (encoder(made.a) - made.z).square().mean() < 0.3 * made.z.var()
    assert score_encoder(encoder, made) > 0.9


def test_units_do_not_matter():
    plain, odd = pairs(scale=(1.0, 1.0), shift=(0.0, 0.0)), None
    odd = plain._replace(a=plain.a * torch.tensor([50.0, 0.1]) + torch.tensor([7.0, 400.0]))
    scores = [score_encoder(fit_encoder(made, 5, Adaptation(fit_steps=200)), made) for made in (plain, odd)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)


@pytest.mark.parametrize("value", [1.0, 300.1])
def test_a_component_that_never_changes_has_no_say(value):
    """A gripper that is always closed in the data: plans begin where it is half open."""
    made = pairs()
    closed = torch.cat([made.a, torch.full((len(made.a), 1), value)], 1)
    encoder = fit_encoder(made._replace(a=closed), 5, Adaptation(fit_steps=50))
    torch.testing.assert_close(encoder(closed), encoder(closed * torch.tensor([1.0, 1.0, 0.0])))


@pytest.mark.parametrize("bottleneck", [Gaussian(), Discrete(codes=64, tokens=4)])
def test_z_of_real_actions_passes_a_bottleneck_no_more_than_z_of_frames_does(bottleneck):
    model = DiLA(replace(small_model(), action_dim=8, bottleneck=bottleneck)).eval()
    made = pairs()
    with torch.no_grad():
        said = torch.tanh((made.a - made.a.mean(0)) / made.a.std(0) @ torch.randn(2, 8))
        made = made._replace(z=model.bottleneck(said).z)
    encoder = fit_encoder(made, 8, Adaptation(fit_steps=400))
    r2 = score_encoder(with_encoder(model, encoder).encode_actions, made)
    assert r2 > 0.5 or isinstance(bottleneck, Discrete)
    assert (r2 == pytest.approx(score_encoder(encoder, made))) == isinstance(bottleneck, Gaussian)


def test_the_score_is_that_of_the_model_as_it_takes_actions(adapted, trained, corpus, cache, tmp_path, monkeypatch):
    how = replace(QUICK, steps=0, layout_steps=0)
    monkeypatch.setattr(DiLA, "encode_actions", lambda self, a: a.new_full((*a.shape[:2], 4), 7.0))
    made = adapt(trained, corpus, tmp_path, how, cache_dir=cache, progress=False)
    assert made.space.to_latent_r2 < adapted.space.to_latent_r2


def test_all_of_it_is_on_the_device_that_was_asked_for(trained, corpus, cache, tmp_path):
    with pytest.raises(DilaError, match="unknown device 'nowhere'"):
        adapt(trained, corpus, tmp_path, QUICK, cache_dir=cache, device="nowhere", progress=False)


def test_a_model_that_knew_other_actions_learns_these(trained, corpus, cache, tmp_path):
    before = load_pretrained(trained)
    other = before._replace(model=with_encoder(before.model, action_encoder(5, before.model.config.action_dim)))
    save_pretrained(tmp_path / "other", other)
    made = adapt(tmp_path / "other", corpus, tmp_path / "out", QUICK, cache_dir=cache, progress=False)
    model = load_pretrained(made.folder).model
    assert model.config.real_action_dim == len(made.space.names) * made.space.repeats != 5


def test_actions_are_paired_in_clips_of_the_length_that_was_asked_for(trained, corpus, tmp_path, monkeypatch):
    """A model of longer clips than the data have can be adapted, and what is too short is refused unencoded."""
    cut = []
    monkeypatch.setattr(module, "Clips", lambda *args, **named: cut.append(args[1]) or Clips(*args, **named))
    how = replace(QUICK, frames=3, steps=0, layout_steps=0)
    adapt(trained, corpus, tmp_path / "out", how, cache_dir=tmp_path / "cache", progress=False)
    assert set(cut) == {3}
    with pytest.raises(DilaError, match="needs"):
        adapt(trained, corpus, tmp_path / "long", replace(how, frames=99), cache_dir=tmp_path / "none", progress=False)
    assert not list((tmp_path / "none").rglob("*.safetensors"))


def test_an_encoder_goes_where_its_model_is():
    model = DiLA(small_model()).to("meta")
    made = with_encoder(model, action_encoder(2, model.config.action_dim).to("meta"))
    assert {parameter.device.type for parameter in made.parameters()} == {"meta"}


def test_two_frames_are_enough(trained, corpus, cache, tmp_path):
    how = replace(QUICK, frames=2, context=1, steps=0)
    made = adapt(trained, corpus, tmp_path, how, cache_dir=cache, progress=False)
    assert made.space.structure_error > 0


def test_the_layout_is_learnt_and_scored_from_as_many_true_frames_as_the_stage_has(
    trained, corpus, cache, tmp_path, monkeypatch
):
    seen = []
    original = layout._distances
    monkeypatch.setattr(layout, "_distances", lambda *args: (seen.append(args[3]), original(*args))[1])
    adapt(trained, corpus, tmp_path, replace(QUICK, context=1, steps=0), cache_dir=cache, progress=False)
    assert len(seen) > QUICK.layout_steps
    assert set(seen) == {1}


def test_the_way_back_is_found_and_scored():
    z, a = torch.randn(300, 5), None
    a = z @ torch.randn(5, 2) * 30 + 4
    episode = torch.arange(300) // 30
    inverse, r2 = LatentToAction.fit(z, a, episode)
    assert r2 > 0.999
    torch.testing.assert_close(inverse(z), a, atol=0.1, rtol=0)
    assert LatentToAction.fit(z, torch.randn(300, 2), episode)[1] < 0.1


def test_the_way_back_is_scored_on_trajectories_that_it_was_not_fitted_on():
    generator = torch.Generator().manual_seed(0)
    episode = torch.arange(12).repeat(20)  # rows of a trajectory are everywhere, those of the last ones as well
    known = torch.eye(12)[episode]  # z tells the trajectory and nothing else
    a = torch.randn(12, 2, generator=generator)[episode]
    assert LatentToAction.fit(known, a, episode)[1] < 0.1


def test_the_adapted_model_tells_what_the_one_before_it_was_trained_on(adapted, trained, corpus, cache, tmp_path):
    before = read_seen(trained)
    assert before.hashes
    assert read_seen(adapted.folder).hashes >= before.hashes
    fitted = adapt(trained, corpus, tmp_path, replace(QUICK, layout_steps=0, steps=0), cache_dir=cache, progress=False)
    assert read_seen(fitted.folder) == before


def test_a_way_back_is_fitted_to_finite_rows_and_to_more_than_one():
    z, a, episode = torch.randn(50, 5), torch.randn(50, 2), torch.arange(50) // 10
    with pytest.raises(DilaError, match="from 1 trajectory"):
        LatentToAction.fit(z, a, torch.zeros(50, dtype=torch.int64))
    with pytest.raises(DilaError, match="1 transitions are too few"):
        LatentToAction.fit(z[:1], a[:1], episode[:1])
    z[3], a[[3, 7], 0] = torch.nan, torch.inf
    with pytest.raises(DilaError, match="2 of 50 transitions contain NaN or infinite numbers"):
        LatentToAction.fit(z, a, episode)


def test_the_adapted_model_takes_the_datas_actions(adapted):
    model = load_pretrained(adapted.folder).model
    space, inverse = load_actions(adapted.folder)
    assert space == adapted.space
    assert space.names == ("y", "x")
    width = len(space.names) * space.repeats
    z = model.encode_actions(space.hold(torch.zeros(1, 3, 2)))
    assert z.shape == (1, 3, model.config.action_dim)
    assert model.config.real_action_dim == width
    assert inverse(z).shape == (1, 3, width)
    assert max(space.bound) <= 3
    assert 0 < space.structure_error < 100


def test_the_range_of_actions_is_kept_on_both_sides():
    throttle = torch.linspace(0.5, 1, 1001)[:, None]
    corpus = Corpus(Path(), (), (), names={"action": ("throttle",)})
    space = _space(corpus, Pairs(throttle, torch.zeros(1001, 4), torch.zeros(1001)), 1, QUICK, 0.5, 0.5)
    assert (space.low, space.high) == (pytest.approx((0.5025,)), pytest.approx((0.9975,)))
    assert [end.item() for end in space.limits()] == pytest.approx([0.5025, 0.9975])
    before = replace(space, bound=(0.99,), low=None, high=None)  # as files from before 2026-11-28 are read
    assert [end.item() for end in before.limits()] == pytest.approx([-0.99, 0.99])


def test_what_another_process_adapts_is_left_to_it(trained, corpus, cache, held, tmp_path):
    with held(tmp_path / "out"), pytest.raises(DilaError, match=r"another process works on .*out; wait for it"):
        adapt(trained, corpus, tmp_path / "out", QUICK, cache_dir=cache, progress=False)


@pytest.mark.parametrize("interrupted", [False, True])
def test_going_on_trains_nothing_again(interrupted, adapted, trained, corpus, cache):
    if interrupted:
        (adapted.folder / "actions.json").unlink()
    before = load_pretrained(adapted.folder).model.state_dict()
    assert adapt(trained, corpus, adapted.folder.parent, QUICK, cache_dir=cache, progress=False) == adapted
    after = load_pretrained(adapted.folder).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"how": replace(QUICK, fit_steps=31)}, r"fit_steps = 30 \(now 31\)"),
        ({"how": replace(QUICK, optimiser=replace(QUICK.optimiser, lr=1e-3))}, r"optimiser.lr = 0.0003 \(now 0.001\)"),
        ({"data": "other actions"}, "data = "),
        ({"model": "other weights"}, "model = "),
    ],
)
def test_another_adaptation_is_not_replaced(change, told, adapted, trained, corpus, cache, tmp_path):
    before = load_pretrained(adapted.folder).model.state_dict()
    model, data = trained, corpus
    if "data" in change:
        data = shutil.copytree(corpus, tmp_path / "data")
        table = pq.read_table(data / "actions.parquet")
        moved = pa.array([[2 * y, x] for y, x in table["action"].to_pylist()], table.schema.field("action").type)
        pq.write_table(table.set_column(table.column_names.index("action"), "action", moved), data / "actions.parquet")
    if "model" in change:
        model = save_pretrained(tmp_path / "model", load_pretrained(adapted.folder))
    with pytest.raises(DilaError, match=f"has an adaptation with {told}"):
        adapt(model, data, adapted.folder.parent, change.get("how", QUICK), cache_dir=cache, progress=False)
    after = load_pretrained(adapted.folder).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_adaptation_that_does_not_say_what_it_was_made_of_is_not_replaced(adapted, trained, corpus, cache, tmp_path):
    shutil.copytree(adapted.folder, tmp_path / "model")
    with pytest.raises(DilaError, match=r"adapt\.json is missing or damaged"):
        adapt(trained, corpus, tmp_path, QUICK, cache_dir=cache, progress=False)


def of_actions(corpus, folder, value, unknown=0):
    """The corpus with the same action throughout, but for every so many rows."""
    shutil.copytree(corpus, folder)
    table = pq.read_table(folder / "actions.parquet")
    rows = [[np.nan if unknown and row % unknown == 0 else value] * 2 for row in range(len(table))]
    same = pa.array(rows, table.schema.field("action").type)
    pq.write_table(table.set_column(table.column_names.index("action"), "action", same), folder / "actions.parquet")
    return folder


def test_actions_that_do_not_vary_have_no_r2(trained, corpus, cache, tmp_path, capsys):
    data, how = of_actions(corpus, tmp_path / "data", 1.0), ["--steps", "0", "--layout-steps", "1", "--fit-steps", "5"]
    line = ["adapt", str(trained), str(data), "--out", str(tmp_path / "out"), "--cache-dir", str(cache), *how]
    assert main([*line, "--batch", "2"]) == 0
    assert (
        "R² of actions from latent actions, on trajectories left out of the fit: undefined" in capsys.readouterr().out
    )
    told = json.loads((tmp_path / "out" / "model" / "actions.json").read_text(), parse_constant=pytest.fail)
    assert told["from_latent_r2"] is None
    assert load_actions(tmp_path / "out" / "model")[0].from_latent_r2 is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_actions_that_are_all_unknown_are_named(value, trained, corpus, cache, tmp_path):
    data = of_actions(corpus, tmp_path / "data", value)
    with pytest.raises(DilaError, match=r"data has 0 trajectories .* fix the column action of episode_\d, .* NaN"):
        adapt(trained, data, tmp_path / "out", replace(QUICK, steps=0), cache_dir=cache, progress=False)
    # What failed made nothing, and keeps nothing from being made.
    adapt(trained, corpus, tmp_path / "out", replace(QUICK, steps=0), cache_dir=cache, progress=False)


@pytest.mark.parametrize("rate", [float("nan"), 0.0, -1.0, float("inf")])
def test_a_learning_rate_that_is_none_is_named(rate):
    with pytest.raises(DilaError, match=f"layout_lr = {rate} must be above 0"):
        Adaptation(layout_lr=rate)


def test_without_steps_only_the_encoder_is_new(trained, corpus, cache, tmp_path, capsys):
    made = adapt(trained, corpus, tmp_path, replace(QUICK, steps=0, layout_steps=0), cache_dir=cache)
    assert "actions: 100%" in capsys.readouterr().err  # the longest part is told of
    before, after = (load_pretrained(path).model.state_dict() for path in (trained, made.folder))
    assert {name for name in after if name not in before or not torch.equal(before[name], after[name])} == {
        name for name in after if name.startswith("action_encoder.")
    }


def test_the_stage_moves_the_encoder_from_where_the_regression_left_it(adapted):
    started = load_pretrained(adapted.folder.parent / "start").model.state_dict()
    ended = load_pretrained(adapted.folder).model.state_dict()
    a = torch.tensor([[[2.0, -1.0]]]).repeat(1, 1, adapted.space.repeats)
    moved = [name for name in ended if not torch.equal(started[name], ended[name])]
    assert any(name.startswith("action_encoder.") for name in moved)
    assert any(name.startswith("fdm.") for name in moved)
    one, other = (
        load_pretrained(path).model.encode_actions(a) for path in (adapted.folder.parent / "start", adapted.folder)
    )
    # Two steps move it a little; units put in twice, or not at all, would move it far.
    assert (one - other).norm() < 0.2 * one.norm()


def test_a_model_that_was_never_adapted_says_how(trained):
    with pytest.raises(DilaError, match="dila adapt"):
        load_actions(trained)


def test_actions_are_found_wherever_the_model_is(adapted, tmp_path, monkeypatch):
    shutil.copytree(adapted.folder, tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_actions("~/mine")[0] == adapted.space
    monkeypatch.setattr(find, "_download", lambda name, *_: {"user/name": adapted.folder}[name])
    assert load_actions("user/name")[0] == adapted.space


def test_without_a_clip_of_known_actions_there_are_no_dynamics_to_learn(trained, corpus, cache, tmp_path):
    data = of_actions(corpus, tmp_path / "data", 1.0, unknown=5)
    how = replace(QUICK, steps=0, frames=4)
    with pytest.raises(DilaError, match=r"data has no clip of 4 frames with all actions known: lower frames"):
        adapt(trained, data, tmp_path / "out", how, cache_dir=cache, progress=False)
    made = adapt(trained, data, tmp_path / "out", replace(how, layout_steps=0), cache_dir=cache, progress=False)
    assert made.space.structure_error is None
    assert json.loads((made.folder / "actions.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize("scale", [1e-5, 1e-7, 1e-9])
def test_small_units_are_told_in_full_and_learnt(scale, corpus):
    made = pairs(scale=(scale, scale), shift=(0.0, 0.0))
    assert score_encoder(fit_encoder(made, 5, Adaptation(fit_steps=400)), made) > 0.8
    assert r_squared(made.a, made.a) == 1
    space = module._space(open_corpus(corpus), made, 2, QUICK, 1.0, 1.0)
    assert space.std == pytest.approx(tuple(made.a.std(0).tolist()), rel=1e-5)
    assert space.bound == pytest.approx(tuple(made.a.abs().quantile(0.99, dim=0).tolist()), rel=1e-5)


def test_rounding_is_no_change():
    steady = torch.full((50, 1), 300.1)
    assert varying(torch.cat([steady, torch.nextafter(steady, steady + (torch.arange(50) % 2)[:, None])], 1)).sum() == 0
    assert math.isnan(r_squared(steady, steady))


def test_places_become_displacements(tmp_path):
    from dila.data import write_table, write_video

    write_video(tmp_path / "a.mp4", torch.zeros(4, 3, 16, 16, dtype=torch.uint8), 10)
    state, action = np.arange(12.0).reshape(4, 3), np.full((4, 2), 100.0)
    names = {"action": ("x", "y"), "state": ("px", "angle", "py")}
    write_table(tmp_path / "actions.parquet", {"a.mp4": {"action": action, "state": state}}, names)
    made = relative_actions(open_corpus(tmp_path), ("px", "py")).episodes[0].columns["action"]
    np.testing.assert_allclose(made, 100 - state[:, [0, 2]])
    with pytest.raises(DilaError, match="has no pz; its components are px, angle, py"):
        relative_actions(open_corpus(tmp_path), ("px", "pz"))
    with pytest.raises(DilaError, match="actions of 2 components, but relative names 1 components"):
        relative_actions(open_corpus(tmp_path), ("px",))


def test_a_baselines_action_encoder_is_fitted_alone(corpus, cache, tmp_path):
    tiny = BASELINES["adaworld"]["tiny"]
    model = replace(tiny, grid=(4, 4), feature_dim=8, width=8, heads=2, encoder_depth=1, decoder_depth=1, action_dim=4)
    run = small_run(model=model, stages=(Stage(Published(), 2),))
    end = train(run, corpus, tmp_path / "run", cache_dir=cache, progress=False)
    with pytest.raises(DilaError, match="is of kind adaworld, of which only the action encoder can be fitted"):
        adapt(end, corpus, tmp_path / "adapted", QUICK, cache_dir=cache, progress=False)
    how = replace(QUICK, steps=0, layout_steps=0)
    made = adapt(end, corpus, tmp_path / "adapted", how, cache_dir=cache, progress=False)
    loaded = load_pretrained(made.folder).model
    assert loaded.encode_actions(torch.randn(1, 3, 4)).shape == (1, 3, 4)
    before = load_pretrained(end).model.state_dict()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in before.items())
