import torch

from dila.imagine.isolate import isolate
from dila.imagine.rebind import rebind


def test_structure_is_that_of_the_first_frame(model):
    e = torch.randn(2, 5, 4, 4, 12)
    made = isolate(model, e)
    assert made.e.shape == (2, 4, 4, 4, 12)
    for k in range(4):
        torch.testing.assert_close(made.s[:, k], model.observe(e).s[:, 0])
    assert not torch.allclose(made.e, rebind(model, e, e).e, atol=1e-5)


def test_content_goes_on_running(model):
    e = torch.randn(1, 5, 4, 4, 12)
    stopped = torch.cat([e[:, :2], e[:, 1:2].expand(1, 3, 4, 4, 12)], 1)
    made, still = isolate(model, e).e, isolate(model, stopped).e
    torch.testing.assert_close(made[:, :2], still[:, :2])
    assert not torch.allclose(made[:, 2:], still[:, 2:], atol=1e-6)
