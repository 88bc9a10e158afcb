from dataclasses import replace

import pytest
import torch

import dila
from dila.cli.main import main
from dila.data import write_video
from dila.interop.released import save_released
from dila.vision import FeatureStatistics

transformers = pytest.importorskip("transformers")


@pytest.fixture
def released(released_config, awake, tmp_path):
    """A released checkpoint, the encoder it saw with and its statistics, all tiny."""
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path / "dinov2")
    model = awake(replace(released_config, grid=(4, 4), feature_dim=24))
    save_released(model, tmp_path / "latest.pt")
    torch.save({"mean": torch.randn(24, 4, 4), "var": torch.rand(24, 4, 4) + 0.5}, tmp_path / "stat.pt")
    return tmp_path


def imported(folder, *more):
    checkpoint, out = str(folder / "latest.pt"), str(folder / "model")
    eyes = ["--encoder", str(folder / "dinov2"), "--size", "56", "--statistics", str(folder / "stat.pt")]
    return main(["import-released", checkpoint, out, "--stride", "0.2", *eyes, *more])


def test_the_folder_labels_videos(released):
    write_video(released / "a.mp4", torch.randint(0, 255, (12, 3, 64, 64), dtype=torch.uint8), 10)
    assert imported(released) == 0
    out = released / "z.parquet"
    assert main(["label", str(released / "model"), str(released / "a.mp4"), "--out", str(out)]) == 0
    world = dila.load(released / "model")
    assert world.stride == 0.2
    assert world.model.config.quirks.single_frame_rollout
    assert world.encoder.statistics.mean.shape == FeatureStatistics.load(released / "stat.pt").mean.shape == (4, 4, 24)


def test_it_is_whole_from_anywhere_and_labels_without_its_decoder(released, rae_file, monkeypatch, capsys, caplog):
    monkeypatch.chdir(released)
    weights = rae_file(24, 4)
    eyes = ["--encoder", "dinov2", "--size", "56", "--statistics", "stat.pt", "--decoder", weights.name]
    assert main(["import-released", "latest.pt", "model", "--stride", "0.2", *eyes]) == 0
    weights.unlink()
    (released / "elsewhere").mkdir()
    monkeypatch.chdir(released / "elsewhere")
    assert main(["pack", "../model", "--out", "packed"]) == 0
    assert f"the encoder's weights are in a local folder, {released / 'dinov2'}, and are not packed" in caplog.text
    assert "set encoder.model in config.json" in (released / "elsewhere" / "packed" / "README.md").read_text()
    write_video(released / "a.mp4", torch.randint(0, 255, (12, 3, 64, 64), dtype=torch.uint8), 10)
    assert main(["rollout", "packed", "../a.mp4", "--out", "future.gif"]) == 0
    (released / "elsewhere" / "packed" / "decoder.safetensors").unlink()
    assert main(["label", "packed", "../a.mp4", "--out", "z.parquet"]) == 0
    assert main(["rollout", "packed", "../a.mp4", "--out", "future.gif"]) == 2


def test_statistics_of_other_features_are_refused(released, capsys):
    torch.save({"mean": torch.zeros(12), "var": torch.ones(12)}, released / "stat.pt")
    assert imported(released) == 2
    assert "stat.pt has statistics of 12 features, but the encoder gives 4 x 4 x 24; give" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused_by_its_keys(released, capsys):
    stored = torch.load(released / "latest.pt", weights_only=True)
    lost = next(iter(stored["model"]))
    del stored["model"][lost]
    torch.save(stored, released / "latest.pt")
    assert imported(released) == 2
    assert lost in capsys.readouterr().err
    assert not (released / "model").exists()
