import pytest
import torch

from dila.errors import DilaError
from dila.vision.statistics import FeatureStatistics, accumulate


def test_streamed_statistics_equal_those_of_the_whole():
    e = torch.randn(10, 4, 3, 5) * torch.tensor([1.0, 2, 3, 4, 5]) + 100
    whole = e.reshape(-1, 5).double()
    statistics = accumulate([e[:1], e[1:7], e[7:]])
    assert torch.allclose(statistics.mean.double(), whole.mean(0), atol=1e-4)
    assert torch.allclose(statistics.var.double(), whole.var(0, unbiased=False), rtol=1e-4)
    normalised = statistics.normalise(e)
    assert torch.allclose(normalised.mean((0, 1, 2)), torch.zeros(5), atol=1e-4)
    assert torch.allclose(statistics.denormalise(normalised), e, atol=1e-3)


def test_no_frames_is_an_error():
    with pytest.raises(DilaError, match="at least one frame"):
        accumulate([])


def test_save_and_load_give_the_same(tmp_path):
    statistics = FeatureStatistics(torch.randn(2, 2, 7), torch.rand(2, 2, 7))
    statistics.save(tmp_path / "encoder.safetensors")
    again = FeatureStatistics.load(tmp_path / "encoder.safetensors")
    assert torch.equal(again.mean, statistics.mean)
    assert torch.equal(again.var, statistics.var)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.safetensors"]


@pytest.mark.parametrize("leading", [(), (1,)])
def test_the_released_file_is_channels_first(tmp_path, leading):
    mean, var = torch.randn(*leading, 7, 2, 3), torch.rand(*leading, 7, 2, 3)
    torch.save({"mean": mean, "var": var}, tmp_path / "stat.pt")
    statistics = FeatureStatistics.load(tmp_path / "stat.pt")
    assert statistics.mean.shape == (2, 3, 7)
    assert torch.equal(statistics.var[1, 2], var.reshape(7, 2, 3)[:, 1, 2])


def test_files_of_other_kinds_are_told(tmp_path):
    torch.save({"mean": torch.zeros(3)}, tmp_path / "half.pt")
    torch.save({"mean": torch.zeros(3), "var": torch.tensor([1, float("nan"), 1])}, tmp_path / "nan.pt")
    (tmp_path / "junk.safetensors").write_bytes(b"no tensors")
    (tmp_path / "junk.pt").write_bytes(b"no tensors")
    for name, word in [
        ("half.pt", "lacks var"),
        ("nan.pt", "infinite numbers in var"),
        ("junk.safetensors", "junk"),
        ("junk.pt", "junk"),
        ("no.pt", "no file"),
    ]:
        with pytest.raises(DilaError, match=word):
            FeatureStatistics.load(tmp_path / name)
