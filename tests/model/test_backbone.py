import pytest
import torch

from dila.model.backbone import Backbone


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_in_pieces_equals_at_once(small_config, clip, chunk):
    backbone, e = Backbone(small_config), clip(7)
    cache, parts = None, []
    for piece in e.split(chunk, 1):
        h, cache = backbone(piece, cache)
        parts.append(h)
    torch.testing.assert_close(torch.cat(parts, 1), backbone(e)[0], atol=1e-5, rtol=0)


def test_is_causal(small_config, clip):
    backbone, e = Backbone(small_config), clip(6)
    changed = torch.cat([e[:, :4], clip(2)], 1)
    torch.testing.assert_close(backbone(changed)[0][:, :4], backbone(e)[0][:, :4], atol=0, rtol=0)
    assert not torch.allclose(backbone(changed)[0][:, 4:], backbone(e)[0][:, 4:])
