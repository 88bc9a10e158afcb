from dataclasses import replace

import pytest
import torch

from dila.model.fusion_decoder import FusionDecoder


@pytest.fixture
def parts():
    return torch.randn(2, 7, 4, 6, 6), torch.randn(2, 7, 4, 6, 16), torch.randn(2, 4, 6, 24)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_in_pieces_equals_at_once(small_config, parts, chunk):
    decoder, (s, c_mem, e0) = FusionDecoder(small_config), parts
    origin, windows, drawn = decoder.origin(e0), None, []
    for s_piece, c_piece in zip(s.split(chunk, 1), c_mem.split(chunk, 1), strict=True):
        e_hat, windows = decoder(s_piece, c_piece, origin, windows)
        drawn.append(e_hat)
    torch.testing.assert_close(torch.cat(drawn, 1), decoder(s, c_mem, origin)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("source", [0, 1, 2])
def test_structure_memory_and_first_frame_all_matter(small_config, parts, source):
    decoder = FusionDecoder(small_config)
    changed = list(parts)
    changed[source] = changed[source] + torch.randn_like(changed[source])
    drawn = [decoder(s, c_mem, decoder.origin(e0))[0] for s, c_mem, e0 in (parts, changed)]
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


@pytest.mark.parametrize("width", [None, 32])
def test_predicting_the_change_starts_from_the_first_frame(small_config, parts, width):
    config = replace(small_config, width=width, decoder=replace(small_config.decoder, predicts="change"))
    decoder, (s, c_mem, e0) = FusionDecoder(config), parts
    e_hat, _ = decoder(s, c_mem, decoder.origin(e0))
    torch.testing.assert_close(e_hat, e0.unsqueeze(1).expand_as(e_hat), atol=0, rtol=0)


def test_the_papers_predicts_the_output_of_the_last_norm(small_config, parts):
    decoder, (s, c_mem, e0) = FusionDecoder(small_config), parts
    e_hat, _ = decoder(s, c_mem, decoder.origin(e0))
    torch.testing.assert_close(e_hat.mean(-1), torch.zeros(2, 7, 4, 6), atol=1e-5, rtol=0)
