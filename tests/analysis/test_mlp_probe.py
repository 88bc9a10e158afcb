import torch

from dila.analysis.mlp_probe import fit_mlp
from dila.analysis.probe import chance, predict, probe


def curved(dx=4):
    episode = torch.arange(30).repeat_interleave(15)
    x = torch.randn(450, dx, generator=torch.Generator().manual_seed(1))
    return x, torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], 1), episode


def test_it_reads_what_no_line_can():
    x, y, episode = curved()
    linear, bent = probe(x, y, episode), probe(x, y, episode, fit=fit_mlp)
    assert linear.r2 < 0.3
    assert bent.r2 > 0.7
    assert bent.test_rows == linear.test_rows
    assert probe(x, y, episode, fit=fit_mlp) == bent
    assert chance(x, y, episode, fit=fit_mlp).r2 < 0.1


def test_wide_inputs_are_narrowed_without_loss():
    x, _, episode = curved(3)
    wide = x @ torch.linalg.qr(torch.randn(500, 3)).Q.T
    line = x[:, :2]
    told = probe(wide, line, episode, fit=fit_mlp)
    assert told.r2 > 0.9


def test_predictions_at_new_rows_and_errors_by_episode():
    x, _, episode = curved()
    y = x[:, :1] * 3 + 1
    test = episode >= 25
    told = probe(x, y, episode, held_out=test)
    assert len(told.mse_by_episode) == 5
    assert abs(sum(told.mse_by_episode) / 5 - told.mse) < 1e-12
    torch.testing.assert_close(
        predict(x[~test], y[~test], episode[~test], x[test]), y[test].double(), atol=1e-3, rtol=0
    )
