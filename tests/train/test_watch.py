import torch

from dila.train.watch import coloured


def test_colours_are_the_same_for_equal_features_and_show_what_differs():
    e = torch.randn(1, 3, 4, 4, 8, generator=torch.Generator().manual_seed(0))
    truth, same, other = coloured([e, e, e.flip(1)])
    assert truth.shape == (1, 3, 3, 96, 96)
    assert torch.equal(truth, same)
    assert torch.equal(truth.flip(1), other)
    assert 0 <= float(truth.min()) < 0.1
    assert 0.9 < float(truth.max()) <= 1
