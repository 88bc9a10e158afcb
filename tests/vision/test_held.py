import numpy as np
import torch
from safetensors.torch import save_file

from dila.vision import CachedEpisode, FeatureStatistics, hold
from dila.vision.held import size


def test_what_is_held_is_what_the_cache_has(tmp_path):
    path = tmp_path / "shard-0.safetensors"
    save_file({"key": torch.randn(9, 2, 3, 4).bfloat16()}, path)
    statistics = FeatureStatistics(torch.randn(4), torch.rand(4) + 0.5)
    columns = {"action": np.arange(9)}
    for cached in [CachedEpisode("a", np.arange(9.0), columns, (path,), "key", each) for each in (None, statistics)]:
        held = hold(cached, torch.device("cpu"))
        assert held.e.dtype == torch.bfloat16
        assert torch.equal(held.read([7, 0, 3]), cached.read([7, 0, 3]))
        assert (held.id, held.fingerprint(), held.columns) == ("a", "key", columns)


def test_size_in_gigabytes():
    assert size(14_400, (8, 8), 272) == 14_400 * 8 * 8 * 272 * 2 / 1e9
