from dataclasses import replace

import pytest
import torch

from dila.data.primitives import render_primitives
from dila.errors import DilaError
from dila.interop import box as boxed
from dila.interop.pretrained import load_pretrained, read_notes
from dila.model.dila import DiLA, count_parameters
from dila.recipes.box import box, main, make, scaled
from dila.train.run import DecoderRun
from dila.vision import ConvDecoder, ConvDecoderConfig


def test_its_model_and_decoder_fit_the_box_in_half_precision():
    run = box()
    with torch.device("meta"):
        model = count_parameters(DiLA(run.model))
        settings = run.decoder
        sizes = ConvDecoderConfig(272, (8, 8), settings.size, settings.width, settings.max_width, settings.blocks)
        decoder = count_parameters(ConvDecoder(sizes))
    assert 2 * (model + decoder) < boxed.BYTES - 1e6


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Two recordings of moving things, without and with an independent background."""
    folder = tmp_path_factory.mktemp("recordings")
    for name, moving in (("still", False), ("drifting", True)):
        render_primitives(folder / name, 12, frames=20, size=32, moving_background=moving)
    return [str(folder / "still"), str(folder / "drifting")]


def test_made_from_recordings_it_loads_and_its_card_has_the_numbers_of_each(recordings, tmp_path, small_config):
    run = scaled(box(), 0.0005)
    run = replace(
        run,
        model=replace(small_config, real_action_dim=None),
        encoder={"name": "efficientnet-lite0", "size": 64, "taps": ["stride16"]},
        batch=2,
        evaluate_clips=2,
        decoder=DecoderRun(steps=1, size=32, width=8, max_width=16, frames=32),
    )
    folder = make(run, recordings, tmp_path)
    assert load_pretrained(folder).decoder is not None
    scores = read_notes(folder)["scores"]
    assert {"rollout_ratio", "probe_r2", "probe_r2_chance"} <= scores["still"].keys() & scores["drifting"].keys()
    card = (folder / "README.md").read_text()
    assert f"| {scores['drifting']['rollout_ratio']:.3f} |" in card
    assert "drifting, 12 recorded episodes" in card


def test_scaled_every_part_is_shorter():
    half = scaled(box(), 0.5)
    assert [stage.steps * 2 for stage in half.stages] == [stage.steps for stage in box().stages]
    assert half.decoder.steps * 2 == box().decoder.steps
    assert half.optimiser.warmup * 2 == box().optimiser.warmup
    with pytest.raises(DilaError, match=r"scale = 0\.0 must be above 0"):
        scaled(box(), 0.0)


def test_bad_input_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("box: ")
