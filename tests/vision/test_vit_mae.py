import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from dila.errors import DilaError, MissingExtra
from dila.vision import build_encoder
from dila.vision.vit_mae import ViTMAE, ViTMAEConfig

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(mae_folder):
    return mae_folder


def encoder(folder, **fields) -> ViTMAE:
    return ViTMAE(ViTMAEConfig(**{"model": str(folder), "size": 32, "local_files_only": True, **fields}))


def frames(side=32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 3, side, side), generator=generator, dtype=torch.uint8)


def by_hand(folder, x):
    """Patches through the layers one after the other, as the paper has it without masking."""
    model = transformers.ViTMAEForPreTraining.from_pretrained(folder).eval().vit
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x.flatten(0, 1).float() / 255 - mean[:, None, None]) / std[:, None, None]
    embedded = model.embeddings
    patches = embedded.patch_embeddings(x) + embedded.position_embeddings[:, 1:]
    first = (embedded.cls_token + embedded.position_embeddings[:, :1]).expand(len(x), -1, -1)
    tokens = torch.cat([first, patches], dim=1)
    for layer in [part for part in model.modules() if type(part).__name__ == "ViTMAELayer"]:
        made = layer(tokens)
        tokens = made if torch.is_tensor(made) else made[0]  # transformers before 5
    return model.layernorm(tokens)[:, 1:]


def test_features_equal_the_direct_computation_with_every_patch_in_its_place(folder):
    made = encoder(folder)
    e = made.encode(frames())
    assert (made.grid, made.feature_dim) == ((4, 4), 32)
    with torch.no_grad():
        torch.testing.assert_close(e.flatten(0, 1).flatten(1, 2), by_hand(folder, frames()), atol=1e-5, rtol=1e-5)
    assert torch.equal(made.encode(frames()), e)


def test_frames_of_another_size_have_positions_between(folder):
    made = encoder(folder, size=(32, 64))
    assert made.grid == (4, 8)
    assert made.encode(frames(50)).shape == (2, 3, 4, 8, 32)


def test_config_builds_the_same_encoder(folder):
    made = encoder(folder)
    again = build_encoder(json.loads(json.dumps(made.config())))
    assert torch.equal(again.encode(frames()), made.encode(frames()))
    assert again.weights() == made.weights() != ""


def test_a_folder_is_known_by_its_weights_wherever_it_lies(folder, tmp_path):
    made, copied = encoder(folder), tmp_path / "copied"
    shutil.copytree(folder, copied, copy_function=shutil.copyfile)  # without its times
    again = encoder(copied)
    assert again.config() != made.config()
    assert (again.identity(), again.weights()) == (made.identity(), made.weights())
    weights = load_file(copied / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, copied / "model.safetensors", {"format": "pt"})
    assert encoder(copied).weights() != made.weights()


def test_bf16_stays_near_fp32(folder):
    exact, fast = encoder(folder).encode(frames()), encoder(folder, precision="bf16").encode(frames())
    assert 0 < float((fast - exact).norm() / exact.norm()) < 0.1


def test_the_half_that_is_not_used_is_no_news_and_a_missing_weight_is_an_error(folder, tmp_path, caplog):
    encoder(folder).encode(frames())
    assert caplog.text == ""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vit.layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(DilaError, match=r"lacks 1 weight.s. of a ViT-MAE, the first vit\.layernorm\.weight"):
        encoder(tmp_path).encode(frames())


def test_what_cannot_be_had_is_told(folder, tmp_path, monkeypatch):
    with pytest.raises(DilaError, match="was not found on this disk"):
        encoder(tmp_path / "nothing")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(DilaError, match="is a bert model, but the ViT-MAE encoder needs a vit_mae model"):
        encoder(tmp_path)
    with pytest.raises(DilaError, match="multiple of 8"):
        encoder(folder, size=30)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"dila-wm\[mae\]"):
        encoder(folder)
