import torch

from dila.imagine.rebind import rebind


def test_a_clip_rebound_with_itself_is_decoded_from_its_true_structure(model):
    e = torch.randn(2, 6, 4, 4, 12)
    seen = model.observe(e)
    expected, _ = model.decoder(seen.s[:, 1:], seen.c_mem[:, :-1], model.decoder.origin(e[:, 0]))
    made = rebind(model, e, e)
    torch.testing.assert_close(made.e, expected)
    torch.testing.assert_close(made.s, seen.s[:, 1:])


def test_structure_comes_from_one_and_content_from_the_other(model):
    a, b, other = torch.randn(3, 1, 6, 4, 4, 12)
    made = rebind(model, a, b)
    torch.testing.assert_close(made.s, model.observe(a).s[:, 1:])
    assert not torch.allclose(made.e, rebind(model, a, other).e, atol=1e-3)
    assert not torch.allclose(made.e, rebind(model, other, b).e, atol=1e-5)


def test_content_of_a_picture_is_kept(model):
    a, picture = torch.randn(1, 6, 4, 4, 12), torch.randn(1, 1, 4, 4, 12)
    made = rebind(model, a, picture)
    assert made.e.shape == (1, 5, 4, 4, 12)
    longer = torch.cat([picture, torch.randn(1, 7, 4, 4, 12)], 1)
    torch.testing.assert_close(made.e[:, 0], rebind(model, a, longer).e[:, 0])
