import pytest
import torch

from dila.errors import DilaError
from dila.vision import ConvDecoder, ConvDecoderConfig, build_decoder, decoder_loss


def decoder(**fields) -> ConvDecoder:
    torch.manual_seed(0)
    return ConvDecoder(ConvDecoderConfig(**{"feature_dim": 12, "grid": (4, 4), "size": 32, "width": 16, **fields}))


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 4), 32), ((3, 4), (24, 32)), ((4, 4), 4), ((4, 4), 8), ((4, 4), 56), ((3, 4), (20, 40))]
)
def test_frames_have_the_asked_size(grid, size):
    e = torch.randn(2, 3, *grid, 12)
    o = decoder(grid=grid, size=size).decode(e)
    rows, columns = (size, size) if isinstance(size, int) else size
    assert o.shape == (2, 3, 3, rows, columns)


def test_forward_trains_and_decode_shows():
    made, e = decoder(), 50 * torch.randn(1, 2, 4, 4, 12)
    trained = made(e)
    assert trained.requires_grad
    shown = made.decode(e)
    assert not shown.requires_grad
    assert torch.equal(shown, trained.detach().clamp(0, 1))


def test_decode_keeps_a_graph_only_for_features_that_ask_for_one():
    made, e = decoder(), torch.randn(1, 2, 4, 4, 12, requires_grad=True)
    (slope,) = torch.autograd.grad(made.decode(e).sum(), e)
    assert bool((slope != 0).any())
    with torch.no_grad():
        assert not made.decode(e).requires_grad


def test_frames_of_a_batch_do_not_mix():
    made, e = decoder(), torch.randn(2, 2, 4, 4, 12)
    assert torch.allclose(made(e)[1, 0], made(e[1:, :1])[0, 0], atol=1e-5)


def test_loss_is_zero_at_the_truth_and_weighs_what_moves():
    frames = torch.full((1, 8, 3, 16, 16), 255, dtype=torch.uint8)
    frames[0, 3, :, 4:6, 4:6] = 0  # a small object in one frame
    true = frames / 255
    assert sum(decoder_loss(true, frames).values()) == 0
    object_lost, background_off = true.clone(), true.clone()
    object_lost[0, 3, :, 4:6, 4:6] = 1
    background_off[0, 3, :, 10:12, 10:12] = 0
    lost, off = decoder_loss(object_lost, frames), decoder_loss(background_off, frames)
    assert lost["pixels"] > 5 * off["pixels"]
    assert lost["edges"] > 2 * off["edges"]
    assert decoder_loss(object_lost, frames, foreground=0.0)["pixels"] == pytest.approx(
        float(decoder_loss(background_off, frames, foreground=0.0)["pixels"])
    )


def test_it_learns_to_place_a_square():
    torch.manual_seed(0)
    made = decoder(feature_dim=16, width=32)
    frames = torch.ones(16, 1, 3, 32, 32)
    e = torch.zeros(16, 1, 4, 4, 16)
    for cell in range(16):
        row, column = divmod(cell, 4)
        frames[cell, 0, :2, 8 * row + 2 : 8 * row + 6, 8 * column + 2 : 8 * column + 6] = 0
        e[cell, 0, row, column] = 4
    optimizer = torch.optim.AdamW(made.parameters(), lr=5e-3)
    for _ in range(60):
        loss = torch.stack(list(decoder_loss(made(e), frames).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    error = (made.decode(e) - frames).abs()
    assert float(error[frames == 0].mean()) < 0.25
    assert float(error.mean()) < 0.05


def test_config_builds_the_same_shape():
    made = decoder(grid=(3, 4), size=(24, 32))
    again = build_decoder(made.config())
    assert isinstance(again, ConvDecoder)
    again.load_state_dict(made.state_dict())
    e = torch.randn(1, 1, 3, 4, 12)
    assert torch.equal(again.decode(e), made.decode(e))


def test_bad_settings_are_told():
    with pytest.raises(DilaError, match="must be at least its feature grid"):
        decoder(size=2)
    with pytest.raises(DilaError, match="multiples of 8"):
        decoder(width=12)
    with pytest.raises(DilaError, match=r"'vae'.*conv, rae"):
        build_decoder("vae")
    with pytest.raises(DilaError, match="conv needs the field feature_dim, grid"):
        build_decoder("conv")
