import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import dila
from dila.data import write_video
from dila.errors import DilaError
from dila.files import HOST
from dila.interop.find import find_pretrained
from dila.interop.models import MODELS
from dila.interop.pretrained import load_pretrained, pick_device, save_pretrained
from dila.interop.released import save_released
from dila.model.dila import DiLA
from dila.vision import (
    ConvDecoder,
    ConvDecoderConfig,
    FeatureStatistics,
    build_decoder,
    build_encoder,
)


@pytest.fixture
def folder(pretrained, tmp_path):
    return save_pretrained(tmp_path / "model", pretrained, {"step": 3})


def same(first, second):
    frames = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    e, again = first.encoder.encode(frames), second.encoder.encode(frames)
    torch.testing.assert_close(again, e)
    with torch.no_grad():
        torch.testing.assert_close(second.model.infer(e), first.model.infer(e))
        torch.testing.assert_close(second.model(e).e_hat, first.model(e).e_hat)
    if first.decoder is not None:
        torch.testing.assert_close(second.decoder.decode(e), first.decoder.decode(e))
    assert (second.stride, second.frames) == (first.stride, first.frames)


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_is_saved_is_what_is_loaded(pretrained, folder):
    loaded = load_pretrained(folder)
    same(pretrained, loaded)
    assert not loaded.model.training
    assert all(p.requires_grad for p in loaded.model.parameters())
    described = json.loads((folder / "config.json").read_text())
    assert described["notes"] == {"step": 3}
    assert (described["format"], described["kind"], described["stride"]) == (1, "dila", 0.2)


def test_what_a_file_does_not_keep_is_made_anew_and_what_is_frozen_stays(pretrained, monkeypatch, tmp_path):
    class Odd(DiLA):
        def __init__(self, config):
            super().__init__(config)
            self.register_buffer("places", torch.arange(4.0), persistent=False)
            self.signs = torch.ones(3)
            self.backbone.requires_grad_(False)

    model = Odd(pretrained.model.config)
    monkeypatch.setitem(MODELS, "dila", MODELS["dila"]._replace(model=Odd))
    folder, before = save_pretrained(tmp_path / "odd", pretrained._replace(model=model)), torch.get_rng_state()
    loaded = load_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), before)
    same(pretrained._replace(model=model.eval()), loaded)
    assert (loaded.model.places.tolist(), loaded.model.signs.tolist()) == ([0, 1, 2, 3], [1, 1, 1])
    frozen = {name: not p.requires_grad for name, p in loaded.model.named_parameters()}
    assert frozen == {name: name.startswith("backbone.") for name in frozen}


def test_without_decoder_and_statistics(pretrained, tmp_path):
    bare = pretrained._replace(decoder=None, encoder=pretrained.encoder.with_statistics(None))
    folder = save_pretrained(tmp_path / "bare", bare)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_pretrained(folder, device="auto")
    assert loaded.decoder is None
    assert loaded.encoder.statistics is None


def test_saving_replaces_whole_and_leaves_nothing_beside(pretrained, folder):
    save_pretrained(folder, pretrained._replace(decoder=None))
    assert load_pretrained(folder).decoder is None
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.fixture
def dead():
    """The number of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        return process.pid


def test_a_model_that_a_killed_writer_set_aside_is_found(pretrained, folder, dead):
    for pid, found in ((os.getppid(), False), (dead, True), (os.getpid(), True)):
        aside = folder.with_name(f".model.{pid}-{HOST}-a1.old")
        folder.rename(aside)
        if not found:
            with pytest.raises(DilaError, match="model does not exist"):
                load_pretrained(folder)
            aside.rename(folder)
            continue
        same(pretrained, load_pretrained(folder))
        assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_save_sees_to_what_killed_writers_left(pretrained, folder, dead, tmp_path):
    parts = [
        ("model", dead, "partial"),
        ("model", dead, "old"),
        ("other", dead, "old"),
        ("model", os.getppid(), "partial"),
    ]
    beside = [f".{name}.{pid}-{HOST}-a1.{ending}" for name, pid, ending in parts]
    for name in beside:
        shutil.copytree(folder, tmp_path / name)
    save_pretrained(folder, pretrained._replace(frames=4))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([folder.name, *beside[2:]])
    folder.rename(tmp_path / beside[1])
    with pytest.raises(DilaError, match="stride = -1"):
        save_pretrained(folder, pretrained._replace(stride=-1.0))
    assert load_pretrained(folder).frames == 4


def test_a_save_that_fails_leaves_the_old_one(pretrained, folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(FeatureStatistics, "save", full)
    with pytest.raises(DilaError, match="cannot be written: no space left"):
        save_pretrained(folder, pretrained._replace(frames=4))
    assert load_pretrained(folder).frames == 8
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_other_folders_are_not_overwritten(pretrained, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    with pytest.raises(DilaError, match="is not a folder of a trained model"):
        save_pretrained(tmp_path / "thesis", pretrained)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "x"


def test_a_model_with_other_files_beside_it_is_not_replaced(pretrained, folder):
    (folder / "trainer.pt").write_text("what resuming needs")
    with pytest.raises(DilaError, match=r"model contains other files, trainer\.pt, which"):
        save_pretrained(folder, pretrained._replace(decoder=None))
    assert (folder / "trainer.pt").is_file()
    assert load_pretrained(folder).decoder is not None


def test_a_run_gives_its_newest_complete_checkpoint(pretrained, tmp_path):
    run = tmp_path / "run"
    for step in (5, 90, 1000):
        save_pretrained(run / "checkpoints" / f"step_{step:07d}", pretrained._replace(frames=step))
    (run / "checkpoints" / "step_0001000" / "model.safetensors").unlink()
    (run / "checkpoints" / "step_0000995.partial").mkdir()
    (run / "config.json").write_text("{}")
    assert load_pretrained(run).frames == 90
    shutil.rmtree(run / "checkpoints" / "step_0000090")
    shutil.rmtree(run / "checkpoints" / "step_0000005")
    (run / "config.json").unlink()
    with pytest.raises(DilaError, match="no complete checkpoint among 1"):
        find_pretrained(run)


def test_a_hub_id_is_downloaded_unless_it_is_a_path(pretrained, folder, monkeypatch, tmp_path):
    import huggingface_hub

    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    same(pretrained, load_pretrained("someone/dila", revision="v1", cache_dir="c", local_files_only=True, token="t"))
    wanted = {"name": "someone/dila", "revision": "v1", "cache_dir": "c", "local_files_only": True, "token": "t"}
    assert asked.items() >= wanted.items()
    asked.clear()
    shutil.copytree(folder, tmp_path / "someone" / "dila")
    load_pretrained("someone/dila")
    assert not asked


def test_a_hub_id_that_is_not_to_be_had_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DilaError, match="nobody/nothing is not an existing path, and downloading it"):
        load_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_released_file_with_the_eyes_it_needs(encoder, released_config, awake, tmp_path, suffix):
    model = awake(replace(released_config, grid=(4, 4), feature_dim=40))
    path = tmp_path / f"released{suffix}"
    save_released(model, path)
    loaded = load_pretrained(path, encoder=encoder, stride=0.25)
    assert (loaded.stride, loaded.frames, loaded.decoder) == (0.25, 16, None)
    e = torch.randn(1, 4, 4, 4, 40)
    torch.testing.assert_close(loaded.model.infer(e), model.infer(e))
    with pytest.raises(DilaError, match="give encoder="):
        load_pretrained(path, stride=0.25)
    with pytest.raises(DilaError, match="give stride="):
        load_pretrained(path, encoder=encoder)


def test_what_a_model_has_of_its_own_is_refused(folder):
    with pytest.raises(DilaError, match="contains its own"):
        load_pretrained(folder, stride=0.2)
    with pytest.raises(DilaError, match="trained with the encoder efficientnet-lite0, not pixels; give that"):
        load_pretrained(folder, encoder=build_encoder("pixels"))


def test_missing_paths_and_files_are_named(folder, tmp_path):
    with pytest.raises(DilaError, match="absent does not exist"):
        load_pretrained(tmp_path / "absent")
    with pytest.raises(DilaError, match=r"has no config\.json"):
        load_pretrained(tmp_path)
    for name in ("model.safetensors", "encoder.safetensors", "decoder.safetensors"):
        (folder / name).rename(tmp_path / "away")
        with pytest.raises(DilaError, match=name):
            load_pretrained(folder)
        (tmp_path / "away").rename(folder / name)


def test_tensors_at_fault_are_named(folder):
    path = folder / "model.safetensors"
    whole = load_file(path)
    first, second = sorted(whole)[:2]
    save_file(whole | {first: whole[first].flatten()[:1], "ghost": torch.zeros(1)}, path)
    with pytest.raises(DilaError, match=f"unexpected: ghost; misshapen: {first} ") as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)
    save_file({name: tensor for name, tensor in whole.items() if name != second}, path)
    with pytest.raises(DilaError, match=f"missing: {second}$"):
        load_pretrained(folder)


def test_a_damaged_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DilaError, match=r"model\.safetensors is damaged"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 2, "dila_version": "9.1"}, r"format 2, written by dila 9\.1, .* pip install -U dila-wm"),
        ({"format": None}, "no field 'format'"),
        ({"kind": "lava"}, "kind 'lava'"),
        ({"stride": -1.0}, "stride = -1"),
        ({"stride": "fast"}, "stride = fast"),
        ({"frames": 1}, "frames = 1"),
        ({"model": {"depth": 3}}, "model has no field depth"),
        ({"encoder": {"name": "vjepa"}}, "no encoder named 'vjepa'"),
        ({"encoder": "x"}, "should be objects"),
        (
            {"statistics": False, "encoder": {"name": "efficientnet-lite0", "size": 64, "taps": ["stride8"]}},
            "8 x 8 x 40",
        ),
    ],
)
def test_faults_of_the_config_are_one_sentence(folder, fields, message):
    change(folder, **fields)
    with pytest.raises(DilaError, match=message) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("module", "mend"), [
    ("ninelam.lam", "import ninelam first, or install it as a plugin"), ("dila.model.nine", "install a newer dila"),
])  # fmt: skip
def test_a_model_of_a_package_that_is_not_here_names_it(folder, module, mend):
    assert json.loads((folder / "config.json").read_text())["module"] == "dila.model.dila"
    change(folder, kind="nine", module=module)
    with pytest.raises(DilaError, match=f"unknown model kind 'nine'; known kinds are dila, .*; {mend}"):
        load_pretrained(folder)


def test_a_config_that_is_no_json_or_lacks_fields(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(DilaError, match="cannot be read as JSON"):
        load_pretrained(folder)
    (folder / "config.json").write_text('{"format": 1, "kind": "dila"}')
    with pytest.raises(DilaError, match="lacks the field model, encoder"):
        load_pretrained(folder)


@pytest.fixture
def rae(pretrained, rae_file):
    decoder = build_decoder({"name": "rae", "weights": str(rae_file(40, 4))}, pretrained.encoder.statistics)
    return pretrained._replace(decoder=decoder)


@pytest.mark.parametrize("half", [False, True])
def test_a_decoder_that_reads_its_own_file_is_kept_in_the_folder(rae, tmp_path, monkeypatch, half):
    folder = save_pretrained(tmp_path / "model", rae, half=half)
    (tmp_path / "dinov2_decoder.pt").unlink()
    e, drawn = torch.randn(1, 2, 4, 4, 40), rae.decoder.decode(torch.zeros(1, 1, 4, 4, 40))
    again = load_pretrained(folder)
    assert (again.decoder.decode(e) - rae.decoder.decode(e)).abs().max() < (3e-3 if half else 1e-6)
    moved = save_pretrained(tmp_path / "again", again)
    shutil.rmtree(folder)
    assert load_pretrained(moved).decoder.decode(torch.zeros(1, 1, 4, 4, 40)).shape == drawn.shape
    (moved / "decoder.safetensors").unlink()
    with pytest.raises(DilaError, match=r"no file of RAE decoder weights at .*again/decoder\.safetensors"):
        load_pretrained(moved)
    assert load_pretrained(moved, draws=False).decoder is None


def test_a_folder_that_names_a_decoders_file_elsewhere_still_draws(rae, tmp_path):
    folder = save_pretrained(tmp_path / "model", rae)
    (folder / "decoder.safetensors").unlink()
    change(folder, decoder=rae.decoder.config())
    e = torch.randn(1, 2, 4, 4, 40)
    torch.testing.assert_close(load_pretrained(folder).decoder.decode(e), rae.decoder.decode(e))


@pytest.mark.parametrize(("sizes", "told"), [((24, 4), "decoder reads 24 channels"), ((40, 3), "reads 3 x 3 cells")])
def test_a_decoder_of_other_features_is_refused(pretrained, rae_file, tmp_path, sizes, told):
    decoder = build_decoder({"name": "rae", "weights": str(rae_file(*sizes))})
    with pytest.raises(DilaError, match=told):
        save_pretrained(tmp_path / "model", pretrained._replace(decoder=decoder))


def test_an_encoder_that_lies_elsewhere_can_be_given(pretrained, tmp_path, monkeypatch):
    folder = save_pretrained(tmp_path / "model", pretrained)
    change(folder, encoder={"name": "dinov2", "model": "/nowhere/dinov2", "local_files_only": True})
    pytest.importorskip("transformers")
    eyes = pretrained.encoder.with_statistics(None)
    monkeypatch.setattr(eyes, "name", "dinov2", raising=False)
    with pytest.raises(DilaError, match=r"model/config\.json: .* /nowhere/dinov2 was not found .*; or .* dila\.load\("):
        load_pretrained(folder)
    same(pretrained, load_pretrained(folder, encoder=eyes))


def test_parts_that_do_not_fit_are_not_saved(pretrained, small_config, tmp_path):
    with pytest.raises(DilaError, match="4 x 4 x 40, but the model reads 4 x 6 x 24"):
        save_pretrained(tmp_path / "m", pretrained._replace(model=DiLA(small_config)))
    with pytest.raises(DilaError, match="decoder reads 24 channels"):
        save_pretrained(
            tmp_path / "m", pretrained._replace(decoder=ConvDecoder(ConvDecoderConfig(24, (4, 4), 32, 8, 8)))
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_ones_own_is_not_saved_but_told(pretrained, tmp_path):
    class Mine(torch.nn.Module):
        """Without a config that dila could build it from."""

    with pytest.raises(DilaError, match=r"Mine is not a config or model .* \(dila, lapa, .* used in a World"):
        save_pretrained(tmp_path / "model", pretrained._replace(model=Mine()))
    assert not (tmp_path / "model").exists()


def test_devices():
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(DilaError, match="unknown device 'abacus'; choose auto, cpu, cuda or mps"):
        pick_device("abacus")


def test_the_readme_in_four_lines(folder, tmp_path):
    frames = torch.randint(0, 256, (12, 3, 48, 48), dtype=torch.uint8)
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", frames, 5)
    model = dila.load(folder)
    z = model.infer(tmp_path / "a.mp4")
    made = model.transfer(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert z.shape == (11, 8)
    assert model.draw(made.e).shape == (11, 3, 32, 32)
    assert isinstance(model, dila.World)
