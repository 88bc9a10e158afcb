"""AdaWorld's diffusion model as a run: over a trained latent action model, saved with it, resumed, rolled out."""

from dataclasses import replace

import pytest
import torch
from train_world import small_run

pytest.importorskip("diffusers")

from dila.baselines.adaworld import AdaWorldConfig
from dila.baselines.adaworld_diffusion import AdaWorldDiffusionConfig
from dila.errors import DilaError
from dila.imagine.rollout import rollout
from dila.interop.pretrained import load_pretrained
from dila.recipes.adaworld_diffusion import DENOISING
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.published import Published
from dila.train.run import Stage

LAM = AdaWorldConfig((4, 4), 8, width=16, heads=2, encoder_depth=1, decoder_depth=1, action_dim=4, predicts="change")
DIFFUSION = AdaWorldDiffusionConfig(
    (4, 4), 8, LAM, context=2, channels=(32, 32), heads=(1, 1), blocks=1, picture_dim=8, guidance=1.0, steps=2
)

GOLDEN = (0.6436, 1.3032, 1.2251, 0.3576, 1.5480)
"""Losses of the first steps, to notice when training changes without anyone meaning it to."""


@pytest.fixture(scope="module")
def lam(corpus, cache, tmp_path_factory):
    from train_world import PatchConfig, PatchEncoder

    from dila import vision

    out = tmp_path_factory.mktemp("lam") / "run"
    vision.ENCODERS[PatchEncoder.name] = (PatchEncoder, PatchConfig)
    train(small_run(model=LAM, stages=(Stage(Published(), 2),)), corpus, out, cache_dir=cache, progress=False)
    del vision.ENCODERS[PatchEncoder.name]
    return out


def test_it_trains_over_a_trained_model_and_comes_back_with_it(lam, corpus, cache, tmp_path):
    run = small_run(model=DIFFUSION, stages=(Stage(DENOISING, 3),), start=str(lam), evaluate_clips=2)
    train(run, corpus, tmp_path / "run", cache_dir=cache, progress=False)
    steps = [record for record in read_log(tmp_path / "run") if record["kind"] == "train"]
    assert all(record["denoising"] > 0 and "feature" not in record for record in steps)
    seen = [record for record in read_log(tmp_path / "run") if record["kind"] == "evaluation"][-1]
    assert seen["one_step_ratio"] > 0
    assert seen["rollout_ratio"] > 0
    model, actions = load_pretrained(tmp_path / "run").model, load_pretrained(lam).model
    e = torch.randn(2, 3, 4, 4, 8)
    z = actions.infer(e)
    torch.testing.assert_close(model.infer(e), z)
    assert all(torch.equal(one, other) for one, other in
               zip(model.lam.state_dict().values(), actions.state_dict().values(), strict=True))  # fmt: skip
    assert rollout(model, e[:, :1], z).isfinite().all()


def test_the_loss_curve_is_the_golden_one(lam, corpus, cache, tmp_path):
    run = small_run(model=DIFFUSION, stages=(Stage(DENOISING, 5),), start=str(lam), guard=None, evaluate_clips=2)
    train(run, corpus, tmp_path / "run", cache_dir=cache, progress=False)
    found = [record["denoising"] for record in read_log(tmp_path / "run") if record["kind"] == "train"]
    assert found == pytest.approx(GOLDEN, rel=5e-3)


def test_it_needs_a_model_to_follow(lam, corpus, cache, tmp_path):
    run = small_run(model=DIFFUSION, stages=(Stage(DENOISING, 3),))
    with pytest.raises(DilaError, match="needs a trained latent action model; name it with --start"):
        train(run, corpus, tmp_path / "none", cache_dir=cache, progress=False)
    other = replace(run, start=str(lam), model=replace(DIFFUSION, lam=replace(LAM, encoder_depth=2)))
    with pytest.raises(DilaError, match=r"is not the latent action model of run test; set model\.lam to its config"):
        train(other, corpus, tmp_path / "other", cache_dir=cache, progress=False)
