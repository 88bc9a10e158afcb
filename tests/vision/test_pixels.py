import pytest
import torch

from dila.errors import DilaError
from dila.protocols import FrameDecoder, FrameEncoder
from dila.vision import build_decoder, build_encoder


def test_the_way_there_and_back_is_exact():
    encoder = build_encoder({"name": "pixels", "size": [8, 12], "patch": 4})
    assert isinstance(encoder, FrameEncoder)
    assert (encoder.grid, encoder.feature_dim) == ((2, 3), 48)
    frames = torch.randint(0, 256, (2, 3, 3, 8, 12), dtype=torch.uint8)
    e = encoder.encode(frames)
    assert e.shape == (2, 3, 2, 3, 48)
    torch.testing.assert_close(e[1, 2, 0, 1], frames[1, 2, :, :4, 4:8].permute(1, 2, 0).flatten() / 255)
    decoder = encoder.inverse()
    assert isinstance(decoder, FrameDecoder)
    torch.testing.assert_close(decoder.decode(e), frames / 255)
    assert torch.equal(build_decoder(decoder.config()).decode(e), decoder.decode(e))


def test_frames_are_brought_to_the_size():
    encoder = build_encoder({"name": "pixels", "size": 8, "patch": 4})
    assert encoder.encode(torch.full((1, 1, 3, 20, 30), 255, dtype=torch.uint8)).unique() == pytest.approx(1)


def test_a_size_that_patches_do_not_fill_is_refused():
    with pytest.raises(DilaError, match="multiple of its patch of 5, not 8"):
        build_encoder({"name": "pixels", "size": 8, "patch": 5})


def test_published_sizes_give_the_published_grids():
    grids = {
        patch: build_encoder({"name": "pixels", "size": size, "patch": patch}).grid
        for size, patch in [(256, 32), (224, 14)]
    }
    assert grids == {32: (8, 8), 14: (16, 16)}
