import json
import sys

import pytest
import torch

from dila.errors import DilaError, MissingExtra
from dila.vision import DINOv2, DINOv2Config, FeatureStatistics, build_encoder

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    torch.manual_seed(0)
    model = transformers.Dinov2WithRegistersModel(config)
    torch.nn.init.normal_(model.layernorm.weight)
    torch.nn.init.normal_(model.layernorm.bias)
    path = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(path)
    return path


def encoder(folder, **fields) -> DINOv2:
    return DINOv2(DINOv2Config(**{"model": str(folder), "size": 56, "local_files_only": True, **fields}))


def frames() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 3, 64, 80), generator=generator, dtype=torch.uint8)


def test_a_folder_is_kept_by_its_whole_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert encoder(folder.name).config()["model"] == str(folder)


def test_features_equal_the_direct_computation(folder):
    x = frames().flatten(0, 1).double() / 255
    x = torch.nn.functional.interpolate(x.float(), (56, 56), mode="bicubic", align_corners=False, antialias=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    model = transformers.Dinov2WithRegistersModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(x).last_hidden_state
    undone = (hidden - model.layernorm.bias) / model.layernorm.weight  # the affine taken off by hand
    expected = undone[:, 5:].reshape(2, 3, 4, 4, 24)
    made = encoder(folder)
    e = made.encode(frames())
    assert (made.grid, made.feature_dim) == ((4, 4), 24)
    assert torch.allclose(e, expected, atol=2e-4)
    assert float(x.max()) > float(((1 - mean) / std).min())


def test_tokens_have_no_affine_and_statistics_apply(folder):
    made = encoder(folder)
    e = made.encode(frames())
    assert torch.allclose(e.mean(-1), torch.zeros(e.shape[:-1]), atol=1e-4)
    statistics = FeatureStatistics(torch.randn(4, 4, 24), torch.rand(4, 4, 24))
    assert torch.allclose(made.with_statistics(statistics).encode(frames()), statistics.normalise(e), atol=1e-3)


def test_bf16_stays_near_fp32(folder):
    exact, fast = encoder(folder).encode(frames()), encoder(folder, precision="bf16").encode(frames())
    assert 0 < float((fast - exact).norm() / exact.norm()) < 0.1


def test_config_builds_the_same_encoder(folder):
    made = encoder(folder, size=(28, 56))
    again = build_encoder(json.loads(json.dumps(made.config())))
    assert again.grid == (2, 4)
    assert torch.equal(again.encode(frames()), made.encode(frames()))


def test_what_cannot_be_had_is_told(folder, tmp_path, monkeypatch):
    with pytest.raises(DilaError, match="was not found on this disk"):
        encoder(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(DilaError, match="bert model"):
        encoder(tmp_path)
    with pytest.raises(DilaError, match="multiple of 14"):
        encoder(folder, size=50)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match="dinov2"):
        encoder(folder)
