import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from PIL import Image
from train_world import PatchEncoder, small_model, write_corpus

from dila.cli.main import main
from dila.data import open_corpus
from dila.errors import DilaError
from dila.interop.actions import ActionSpace, LatentToAction, load_actions
from dila.interop.pretrained import Pretrained, load_pretrained, save_pretrained
from dila.model.dila import DiLA
from dila.train import decoder as decoding
from dila.train.checkpoint import TrainerState, load_trainer, save_checkpoint
from dila.train.decoder import fit_decoder, gather_pairs, train_decoder
from dila.train.run import DecoderRun
from dila.train.stop import StopRequest
from dila.vision import FeatureStatistics

SETTINGS = DecoderRun(steps=6, batch=4, size=16, width=8, max_width=8, frames=30, warmup=1)


def fit(corpus, folder, settings=SETTINGS, encoder=None):
    episodes = open_corpus(corpus).episodes
    with StopRequest() as stop:
        return fit_decoder(encoder or PatchEncoder(), episodes, episodes, settings, folder, stop=stop, progress=False)


def test_what_another_process_trains_is_left_to_it(corpus, cache, held, tmp_path):
    folder = save_pretrained(tmp_path / "model", Pretrained(DiLA(small_model()), PatchEncoder(), None, 0.2, 4))
    with held(tmp_path / "model.decoder"), pytest.raises(DilaError, match=r"another process works on .*model.decoder;"):
        train_decoder(folder, corpus, None, SETTINGS, cache_dir=cache, device="cpu", progress=False)


def test_a_published_decoder_is_attached_without_training(rae_file, tmp_path, capsys):
    """To a checkpoint in its place, and to a folder of its own."""
    statistics = FeatureStatistics(torch.rand(8), torch.rand(8) + 0.5)
    made = Pretrained(DiLA(small_model()), PatchEncoder(statistics=statistics), None, 0.2, 4)
    state = TrainerState(7, 0, {}, {}, [], {}, "", [])
    folder = save_checkpoint(tmp_path / "run", made, state, 2, {"step": 7})
    weights = rae_file(8, 4)
    for out in ([], ["--out", str(tmp_path / "drawing")]):
        assert main(["train-decoder", str(tmp_path / "run"), "--rae", str(weights), *out]) == 0
    weights.unlink()
    assert load_trainer(folder).step == 7
    raw, e = load_pretrained(tmp_path / "drawing").decoder, torch.randn(1, 2, 4, 4, 8)
    raw.statistics = None
    for place in (tmp_path / "run", tmp_path / "drawing"):
        drawn = load_pretrained(place).decoder.decode(e)
        torch.testing.assert_close(drawn, raw.decode(statistics.denormalise(e)))
    assert capsys.readouterr().out.count("the model with its decoder is in") == 2
    for wrong in ([], ["--rae", str(weights), "--data", "videos"]):
        assert main(["train-decoder", str(tmp_path / "run"), *wrong]) == 2
        assert "either --data PATH, to train a decoder, or --rae FILE, to attach" in capsys.readouterr().err


def test_pairs_are_frames_with_their_own_features(corpus):
    episodes = open_corpus(corpus).episodes
    encoder = PatchEncoder()
    pairs = gather_pairs(encoder, episodes, episodes, SETTINGS)
    assert 30 <= len(pairs.e) == len(pairs.frames) <= 40
    torch.testing.assert_close(pairs.e.float(), encoder.encode(pairs.frames[:, None])[:, 0], atol=0.02, rtol=0.02)
    assert len({int(frame[0].median()) for frame in pairs.frames}) == 5  # every episode's ground


def test_the_decoder_learns(corpus, tmp_path):
    episodes = open_corpus(corpus).episodes
    pairs = gather_pairs(PatchEncoder(), episodes, episodes, SETTINGS)

    def error(steps, folder):
        settings = replace(SETTINGS, steps=steps, batch=16, max_width=16, frames=70, precision="fp32")
        drawn = fit(corpus, tmp_path / folder, settings).decode(pairs.e.float()[:, None])[:, 0]
        return float((drawn - pairs.frames.float() / 255).abs().mean())

    assert error(60, "long") < 0.75 * error(1, "short")


def test_an_interrupted_decoder_goes_on_bit_for_bit(corpus, tmp_path, monkeypatch):
    whole = fit(corpus, tmp_path / "whole").state_dict()
    step = decoding._step

    def then_signal(*args):
        losses = step(*args)
        if args[-1] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_step", then_signal)
        with pytest.raises(SystemExit) as stopped:
            fit(corpus, tmp_path / "broken")
    assert stopped.value.code == 143
    assert torch.load(tmp_path / "broken" / "decoder.pt", weights_only=True)["step"] == 3
    broken = fit(corpus, tmp_path / "broken").state_dict()
    assert all(torch.equal(broken[name], whole[name]) for name in whole)
    with pytest.raises(DilaError, match="other settings"):
        fit(corpus, tmp_path / "broken", DecoderRun(steps=7, size=16))
    other = write_corpus(tmp_path / "other")
    Image.new("RGB", (16, 16)).save(other / "episode_0" / "00.png")
    with pytest.raises(DilaError, match="or other data; use the same ones, or remove"):
        fit(other, tmp_path / "broken")
    path = tmp_path / "broken" / "decoder.pt"
    stored = torch.load(path, weights_only=True)
    del stored["described"]["data"]
    torch.save(stored, path)
    fit(corpus, tmp_path / "broken")  # of an older version


def test_training_the_decoder_leaves_the_callers_random_numbers_alone(corpus, tmp_path):
    encoder = PatchEncoder()
    torch.manual_seed(0)
    first = torch.rand(3)
    torch.manual_seed(0)
    fit(corpus, tmp_path / "d", encoder=encoder)
    assert torch.equal(torch.rand(3), first)


def test_a_decoder_is_attached_to_a_checkpoint_beside_its_trainer_state(corpus, cache, tmp_path):
    pretrained = Pretrained(DiLA(small_model()), PatchEncoder(), None, 0.2, 4)
    state = TrainerState(3, 0, {}, {}, [], {}, "data", [])
    folder = save_checkpoint(tmp_path / "run", pretrained, state, 1, {"step": 3})
    assert train_decoder(tmp_path / "run", corpus, None, SETTINGS, cache_dir=cache, progress=False) == folder
    assert load_pretrained(folder).decoder is not None
    assert load_trainer(folder).step == 3
    assert '"step": 3' in (folder / "config.json").read_text()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_0000003"]


def test_a_decoder_can_go_to_another_folder_and_real_actions_come_along(corpus, cache, tmp_path):
    pretrained = Pretrained(DiLA(small_model()), PatchEncoder(), None, 0.2, 4)
    space = ActionSpace(("x",), 1, (), (0.0,), (1.0,), (2.0,), 0.5, None)
    actions = (space, LatentToAction(torch.ones(8, 1), torch.zeros(1)))
    folder = save_pretrained(tmp_path / "model", pretrained, actions=actions)
    out = train_decoder(folder, corpus, tmp_path / "new", SETTINGS, cache_dir=cache, device="cpu", progress=False)
    assert load_pretrained(out).decoder is not None
    assert load_pretrained(folder).decoder is None
    assert load_actions(out)[0] == space


def test_the_decoder_sees_what_the_run_of_its_model_saw(corpus, cache, tmp_path, monkeypatch):
    pretrained = Pretrained(DiLA(small_model()), PatchEncoder(), None, 0.2, 4)
    save_checkpoint(tmp_path / "run", pretrained, TrainerState(3, 0, {}, {}, [], {}, "data", []), 1, {"step": 3})
    clips = {"held_out": 0.4, "fps": 5.0, "camera": None}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"clips": clips}))
    seen = []

    def peek(encoder, frames, *rest, **more):
        seen.append((len(frames), float(frames[0].times[1])))
        return fit_decoder(encoder, frames, *rest, **more)

    monkeypatch.setattr(decoding, "fit_decoder", peek)
    for out, more in (("as it", {}), ("asked", {"held_out": 0.2, "fps": 10.0})):
        train_decoder(tmp_path / "run", corpus, tmp_path / out, SETTINGS, cache_dir=cache, progress=False, **more)
    assert seen == [(2, pytest.approx(0.2)), (4, pytest.approx(0.1))]
