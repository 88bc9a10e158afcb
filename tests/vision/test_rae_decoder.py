import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dila.errors import DilaError
from dila.vision import FeatureStatistics, RAEDecoder, RAEDecoderConfig, build_decoder
from dila.vision.rae_decoder import sincos_table

FEATURES, WIDTH, DEPTH, MLP, PATCH, GRID, HEADS = 6, 16, 2, 20, 4, 3, 4


def published() -> dict[str, torch.Tensor]:
    """Random weights under the published names."""
    generator = torch.Generator().manual_seed(0)

    def linear(name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": 0.3 * torch.randn(rows, columns, generator=generator),
            f"{name}.bias": 0.3 * torch.randn(rows, generator=generator),
        }

    def norm(name: str) -> dict[str, torch.Tensor]:
        return {
            f"{name}.weight": 1 + 0.3 * torch.randn(WIDTH, generator=generator),
            f"{name}.bias": 0.3 * torch.randn(WIDTH, generator=generator),
        }

    weights = linear("decoder_embed", WIDTH, FEATURES) | linear("decoder_pred", 3 * PATCH**2, WIDTH)
    weights |= norm("decoder_norm") | {"trainable_cls_token": torch.randn(1, 1, WIDTH, generator=generator)}
    weights["decoder_pos_embed"] = torch.randn(1, 1 + GRID**2, WIDTH, generator=generator)
    for i in range(DEPTH):
        layer = f"decoder_layers.{i}"
        for name in ("query", "key", "value"):
            weights |= linear(f"{layer}.attention.attention.{name}", WIDTH, WIDTH)
        weights |= linear(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        weights |= linear(f"{layer}.intermediate.dense", MLP, WIDTH) | linear(f"{layer}.output.dense", WIDTH, MLP)
        weights |= norm(f"{layer}.layernorm_before") | norm(f"{layer}.layernorm_after")
    return weights


def by_hand(w: dict[str, torch.Tensor], tokens: np.ndarray) -> np.ndarray:
    """One frame, tokens ``9 FEATURES`` to pixels ``3 12 12``, in plain numpy loops."""
    n = {key: value.double().numpy() for key, value in w.items()}

    def linear(name, x):
        return x @ n[f"{name}.weight"].T + n[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * n[f"{name}.weight"] + n[f"{name}.bias"]

    x = np.concatenate([n["trainable_cls_token"][0], linear("decoder_embed", tokens)]) + n["decoder_pos_embed"][0]
    for i in range(DEPTH):
        layer = f"decoder_layers.{i}"
        h = norm(f"{layer}.layernorm_before", x)
        q, k, v = (linear(f"{layer}.attention.attention.{name}", h) for name in ("query", "key", "value"))
        size, heads = WIDTH // HEADS, []
        for a in range(HEADS):
            part = slice(a * size, (a + 1) * size)
            scores = q[:, part] @ k[:, part].T / math.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        x = x + linear(f"{layer}.attention.output.dense", np.concatenate(heads, -1))
        h = linear(f"{layer}.intermediate.dense", norm(f"{layer}.layernorm_after", x))
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
        x = x + linear(f"{layer}.output.dense", h)
    patches = linear("decoder_pred", norm("decoder_norm", x))[1:]
    pixels = np.zeros((3, GRID * PATCH, GRID * PATCH))
    for token in range(GRID**2):
        row, column = divmod(token, GRID)
        for p in range(PATCH):
            for q_ in range(PATCH):
                for c in range(3):
                    pixels[c, row * PATCH + p, column * PATCH + q_] = patches[token, (p * PATCH + q_) * 3 + c]
    return pixels * np.array([0.229, 0.224, 0.225])[:, None, None] + np.array([0.485, 0.456, 0.406])[:, None, None]


def load(tmp_path, weights: dict[str, torch.Tensor], statistics=None, **fields) -> RAEDecoder:
    path = tmp_path / "decoder.pt"
    torch.save(weights, path)
    return RAEDecoder(RAEDecoderConfig(str(path), **{"heads": HEADS, **fields}), statistics)


def test_pixels_equal_the_computation_by_hand(tmp_path):
    weights = published()
    statistics = FeatureStatistics(torch.randn(GRID, GRID, FEATURES), torch.rand(GRID, GRID, FEATURES))
    made = load(tmp_path, weights, statistics)
    e = torch.randn(2, 2, GRID, GRID, FEATURES)
    pixels = made(e)
    raw = e.double() * (statistics.var.double() + 1e-5).sqrt() + statistics.mean.double()
    for b in range(2):
        for t in range(2):
            expected = by_hand(weights, raw[b, t].reshape(GRID**2, FEATURES).numpy())
            assert np.allclose(pixels[b, t].numpy(), expected, atol=2e-4)
    assert float(pixels.min()) < 0 or float(pixels.max()) > 1
    assert torch.equal(made.decode(e), pixels.clamp(0, 1))


def test_gradients_reach_the_features_and_no_weight(tmp_path):
    made = load(tmp_path, published())
    e = torch.randn(1, 1, GRID, GRID, FEATURES, requires_grad=True)
    for drawn in (made(e), made.decode(e)):
        (slope,) = torch.autograd.grad(drawn.sum(), e)
        assert bool((slope != 0).any())
    assert not made.decode(e.detach()).requires_grad
    assert not any(p.requires_grad for p in made.parameters())


def test_sizes_come_from_the_tensors_and_safetensors_read_too(tmp_path):
    made = load(tmp_path, published())
    assert (made.sizes.width, made.sizes.depth, made.sizes.mlp) == (WIDTH, DEPTH, MLP)
    assert (made.sizes.patch, made.sizes.grid, made.sizes.features) == (PATCH, GRID, FEATURES)
    save_file(published(), tmp_path / "decoder.safetensors")
    again = build_decoder({**made.config(), "weights": str(tmp_path / "decoder.safetensors")})
    e = torch.randn(1, 1, GRID, GRID, FEATURES)
    assert torch.equal(again.decode(e), made.decode(e))


def test_an_absent_position_table_is_the_fixed_one(tmp_path):
    e = torch.randn(1, 1, GRID, GRID, FEATURES)
    without = {key: value for key, value in published().items() if key != "decoder_pos_embed"}
    absent = load(tmp_path, without, grid=GRID)
    given = load(tmp_path, published() | {"decoder_pos_embed": sincos_table(GRID, WIDTH)})
    assert torch.equal(absent.decode(e), given.decode(e))


def test_the_fixed_table_is_that_of_mae():
    table = sincos_table(GRID, WIDTH)[0]
    assert table.shape == (10, WIDTH)
    assert not table[0].any()
    row, column, i = 2, 1, 3
    entry = table[1 + row * GRID + column]
    angle = 10000 ** (-i / (WIDTH / 4))
    assert entry[i] == pytest.approx(math.sin(column * angle), abs=1e-6)
    assert entry[WIDTH // 4 + i] == pytest.approx(math.cos(column * angle), abs=1e-6)
    assert entry[WIDTH // 2 + i] == pytest.approx(math.sin(row * angle), abs=1e-6)


def test_faults_of_a_file_are_named(tmp_path):
    missing = published()
    del missing["decoder_layers.1.attention.attention.key.bias"]
    with pytest.raises(DilaError, match=r"missing: decoder_layers\.1\.attention\.attention\.key\.bias"):
        load(tmp_path, missing)
    with pytest.raises(DilaError, match=r"unexpected: mask_token"):
        load(tmp_path, published() | {"mask_token": torch.zeros(1)})
    with pytest.raises(DilaError, match=r"misshapen: decoder_norm\.bias \[3\] instead of \[16\]"):
        load(tmp_path, published() | {"decoder_norm.bias": torch.zeros(3)})
    with pytest.raises(DilaError, match=r"not finite: decoder_norm\.bias"):
        load(tmp_path, published() | {"decoder_norm.bias": torch.full((16,), float("inf"))})
    with pytest.raises(DilaError, match="is not an RAE decoder"):
        load(tmp_path, {"weight": torch.zeros(3)})
    with pytest.raises(DilaError, match="heads = 5 does not divide"):
        load(tmp_path, published(), heads=5)
    with pytest.raises(DilaError, match="there is no file of RAE decoder weights"):
        build_decoder({"name": "rae", "weights": str(tmp_path / "none.pt")})


def test_code_in_a_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"decoder_embed.weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(DilaError, match=r"trap\.pt cannot be read"):
        RAEDecoder(RAEDecoderConfig(str(tmp_path / "trap.pt")))
