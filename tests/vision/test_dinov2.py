import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from dila.errors import DilaError, MissingExtra
from dila.vision import DINOv2, DINOv2Config, FeatureStatistics, build_encoder

transformers = pytest.importorskip("transformers")

PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "demo-play.png"


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
    return torch.randint(0, 256, (2, 3, 3, 64, 60), generator=generator, dtype=torch.uint8)


def noise(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def released(picture: np.ndarray) -> torch.Tensor:
    """As the released data set reads a frame, and as RAE then resizes it."""
    small = torch.from_numpy(np.array(Image.fromarray(picture).resize((256, 256), Image.Resampling.BILINEAR)))
    return interpolate(small.permute(2, 0, 1)[None] / 255, (224, 224), mode="bicubic", align_corners=False)


def test_a_folder_is_kept_by_its_whole_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert encoder(folder.name).config()["model"] == str(folder)


def test_features_equal_the_direct_computation(folder):
    x = frames().flatten(0, 1).double() / 255
    x = interpolate(x.float(), (56, 56), mode="bicubic", align_corners=False, antialias=False)
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


@pytest.mark.parametrize(
    "picture", [np.asarray(Image.open(PICTURE).convert("RGB")), noise(720, 1280), noise(64, 300)], ids=str
)
def test_large_frames_are_resized_as_the_released_data_were(folder, picture):
    made, x = encoder(folder, size=224), torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    error = (made.resized(x) - released(picture)).abs()  # PIL rounds to 8 bits after rows and after columns
    assert float(error.mean()) < 0.002
    assert float(error.max()) < 0.01
    at_once = (encoder(folder, size=224, reduce=False).resized(x) - released(picture)).abs()
    assert float(at_once.mean()) > 5 * float(error.mean())


def test_frames_that_are_not_large_are_resized_at_once(folder):
    x = torch.from_numpy(noise(256, 64)).permute(2, 0, 1)[None]
    expected = interpolate(x / 255, (224, 224), mode="bicubic", align_corners=False)
    assert torch.equal(encoder(folder, size=224).resized(x), expected)


def test_the_reduction_follows_the_size_and_is_part_of_the_config(folder):
    made = encoder(folder, size=(28, 56))
    assert made.resize.through == (32, 64)
    assert made.identity() != encoder(folder, size=(28, 56), reduce=False).identity()


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
