"""Baselines through the same run as DiLA: losses and their names, golden curves, save, resume, load.

Write the golden file anew, when it is meant:  python tests/train/test_published.py
"""

import json
import signal
import tempfile
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from train_world import PatchConfig, PatchEncoder, small_run, stop_at, write_corpus

from dila import vision
from dila.baselines.presets import BASELINES
from dila.configs import from_json, to_json
from dila.errors import DilaError
from dila.imagine.world import World
from dila.interop.models import MODELS, AnyConfig, build, kind_of
from dila.interop.pretrained import load_pretrained
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import Batch, OneStep
from dila.train.published import Published, PublishedWeights
from dila.train.run import Guard, Run, Stage

GOLDEN = Path(__file__).parents[1] / "assets" / "golden_loss_baselines.json"
TERMS = {"lapa": [], "moto": ["commitment"], "adaworld": ["kl"], "villax": ["commitment"]}
SMALL = {
    "lapa": {"width": 8, "heads": 2, "head_dim": 4, "spatial_depth": 1, "temporal_depth": 1, "decoder_depth": 1},
    "moto": {"width": 8, "heads": 2, "encoder_depth": 1, "decoder_depth": 1},
    "adaworld": {"width": 8, "heads": 2, "encoder_depth": 1, "decoder_depth": 1},
    "villax": {
        "width": 8, "heads": 2, "encoder_depth": 1, "decoder_width": 8, "decoder_heads": 2, "decoder_hidden": 12,
        "decoder_depth": 1,
    },
}  # fmt: skip


def model_of(name):
    return replace(BASELINES[name]["tiny"], grid=(4, 4), feature_dim=8, **SMALL[name])


def run_of(name, **changes) -> Run:
    return small_run(**{"model": model_of(name), "stages": (Stage(Published(motion=1.0), 5),), "guard": None} | changes)


def losses(name: str, folder: Path) -> list[dict]:
    data = write_corpus(folder / "data")
    train(run_of(name), data, folder / "out", cache_dir=folder / "cache", progress=False)
    kept = {"step", "total", "feature", "commitment", "kl"}
    records = [record for record in read_log(folder / "out") if record["kind"] == "train"]
    return [{key: value for key, value in record.items() if key in kept} for record in records]


@pytest.fixture(params=TERMS)
def name(request):
    return request.param


def test_every_config_of_a_run_has_a_model_and_a_name():
    assert {kind.config for kind in MODELS.values()} == set(AnyConfig.__args__)
    assert [kind_of(sizes["tiny"]) for sizes in BASELINES.values()] == list(BASELINES)
    assert all(type(build(model_of(name))) is MODELS[name].model for name in BASELINES)


def test_losses_have_the_names_of_their_weights_and_sum_to_the_total(name):
    out = Published()(build(model_of(name)), Batch(torch.randn(2, 4, 4, 4, 8)))
    assert list(out.losses) == ["feature", *TERMS[name]]
    weights = asdict(PublishedWeights())
    assert out.losses.keys() <= weights.keys()
    torch.testing.assert_close(out.total, sum(weights[key] * loss for key, loss in out.losses.items()))
    assert (out.s, out.perplexity is None) == (None, name == "adaworld")


@pytest.mark.parametrize("weight", [field.name for field in fields(PublishedWeights)])
def test_a_weight_of_zero_leaves_its_term_out(weight):
    seen = set()
    for name in TERMS:
        if weight == "feature" and not TERMS[name]:
            continue  # nothing would be left
        weights = PublishedWeights(**{weight: 0.0})
        seen |= Published(weights)(build(model_of(name)), Batch(torch.randn(2, 3, 4, 4, 8))).losses.keys()
    assert seen == {"feature", "commitment", "kl"} - {weight}


@dataclass(frozen=True)
class Own:
    """An objective of one's own."""

    def __call__(self, model, batch):
        raise NotImplementedError


@dataclass(frozen=True)
class OwnWeights(PublishedWeights):
    entropy: float = 0.5


def test_an_objective_of_ones_own_trains_any_model(name):
    assert run_of(name, stages=(Stage(Own(), 2),)).stages[0].title == "Own"
    assert small_run(stages=(Stage(Own(), 2),)).stages[0].title == "Own"


def test_a_penalty_of_ones_own_needs_a_weight_of_its_name(name, monkeypatch):
    model, batch = build(model_of(name)), Batch(torch.randn(2, 3, 4, 4, 8))
    monkeypatch.setattr(type(model), "penalty", "entropy")
    with pytest.raises(DilaError, match="has a term 'entropy', for which PublishedWeights has no weight; give"):
        Published()(model, batch)
    assert "entropy" in Published(OwnWeights())(model, batch).losses


def test_a_run_survives_json_with_the_kind_of_its_model(name):
    described = json.loads(json.dumps(to_json(run_of(name))))
    assert described["model"]["kind"] == MODELS[name].config.__name__
    assert from_json(Run, described) == run_of(name)


def test_an_objective_of_another_model_is_refused(name):
    with pytest.raises(DilaError, match=rf"objective is OneStep, which does not fit a model of kind {name}; use Publ"):
        run_of(name, stages=(Stage(OneStep(), 2),))
    with pytest.raises(DilaError, match="is Published, which does not fit a model of kind dila; use OneStep, Rollout"):
        small_run(stages=(Stage(Published(), 2),))


def test_an_interrupted_run_goes_on_bit_for_bit_and_loads(name, corpus, cache, tmp_path, monkeypatch):
    from test_loop import same, without_clock

    run = run_of(name)
    whole = train(run, corpus, tmp_path / "whole", cache_dir=cache, progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit):
            train(run, corpus, tmp_path / "parts", cache_dir=cache, progress=False)
    torch.rand(5)
    end = train(run, corpus, tmp_path / "parts", cache_dir=cache, progress=False)
    assert without_clock(read_log(tmp_path / "parts")) == without_clock(read_log(tmp_path / "whole"))
    assert same(load_pretrained(end).model.state_dict(), load_pretrained(whole).model.state_dict())
    assert json.loads((end / "config.json").read_text())["kind"] == name

    world, frames = World(*load_pretrained(tmp_path / "parts")), torch.randint(0, 256, (5, 3, 16, 16)).byte()
    assert type(world.model) is MODELS[name].model
    z = world.infer(frames)
    assert world.rollout(frames, z).shape == (4, 4, 4, 8)
    assert world.transfer(frames, frames.flip(0)).e.shape == (4, 4, 4, 8)
    assert world.cycle(frames, frames.flip(0)).back.shape == (4, 4, 4, 8)
    with pytest.raises(DilaError, match="rebind needs a DiLA"):
        world.rebind(frames, frames)


def test_a_run_of_before_there_were_baselines_goes_on(corpus, cache, tmp_path):
    train(small_run(), corpus, tmp_path / "out", cache_dir=cache, progress=False)
    path = tmp_path / "out" / "run.json"
    described = json.loads(path.read_text())
    assert described["model"].pop("kind") == "DiLAConfig"
    path.write_text(json.dumps(described))
    before = read_log(tmp_path / "out")
    train(small_run(), corpus, tmp_path / "out", cache_dir=cache, progress=False)
    assert read_log(tmp_path / "out") == before


def test_codes_that_are_all_the_same_stop_the_run(corpus, cache, tmp_path):
    run = run_of("moto", guard=Guard(scale=0.0, perplexity=1e3, patience=2))
    with pytest.raises(DilaError, match="latents collapsed: perplexity stayed below 1000 for 2 logged steps"):
        train(run, corpus, tmp_path / "out", cache_dir=cache, progress=False)


def test_pixels_are_drawn_by_the_encoders_own_inverse(corpus, tmp_path):
    model = replace(model_of("adaworld"), predicts="unit")
    run = run_of("adaworld", model=model, encoder={"name": "pixels", "size": 16, "patch": 4})
    end = train(run, corpus, tmp_path / "out", cache_dir=tmp_path / "cache", progress=False)
    world = World(*load_pretrained(end))
    frames = torch.randint(0, 256, (3, 3, 16, 16)).byte()
    assert (world.draw(world.features(frames)).int() - frames.int()).abs().max() <= 1
    assert world.draw(world.rollout(frames)).shape == (2, 3, 16, 16)


def test_the_loss_curves_are_the_golden_ones(name, tmp_path):
    wanted, found = json.loads(GOLDEN.read_text())[name], losses(name, tmp_path)
    assert len(found) == len(wanted) == 5
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, rel=5e-3, abs=1e-6)


if __name__ == "__main__":
    vision.ENCODERS[PatchEncoder.name] = (PatchEncoder, PatchConfig)
    curves = {}
    for each in TERMS:
        with tempfile.TemporaryDirectory() as folder:
            curves[each] = losses(each, Path(folder))
    GOLDEN.write_text(json.dumps(curves, indent=1) + "\n")
