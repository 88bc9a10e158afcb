import sys

import pytest
import torch
from sklearn import manifold

from dila.analysis.manifold import angular_correlation, pca, trustworthiness, umap
from dila.errors import DilaError, MissingExtra


def test_trustworthiness_is_scikit_learns():
    x, points = torch.randn(60, 8), torch.randn(60, 2)
    for y in (points, x[:, :2]):
        expected = manifold.trustworthiness(x.double().numpy(), y.double().numpy(), n_neighbors=10)
        assert trustworthiness(x, y) == pytest.approx(expected, abs=1e-9)
    assert trustworthiness(x, x) == pytest.approx(1)
    with pytest.raises(DilaError, match="needs 21 points"):
        trustworthiness(x[:20], points[:20])


def test_pca_finds_the_plane_and_projects_directions_into_it():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(300, 2, generator=generator) * torch.tensor([3.0, 1.0])
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q[:2]
    plane = pca(flat @ turn + 7)
    assert sum(plane.share) == pytest.approx(1)
    assert plane.share[0] > 0.8
    moved = plane.project(turn[:1])[0]
    assert moved.norm() == pytest.approx(1, abs=1e-4)
    assert abs(float(moved[0])) > 0.95


def test_angular_correlation_wraps_round():
    angle = 20 * torch.rand(200) - 10
    assert angular_correlation(angle, angle + 2 * torch.pi + 0.3) == pytest.approx(1, abs=1e-5)
    assert angular_correlation(angle, -angle) == pytest.approx(-1, abs=1e-5)
    assert abs(angular_correlation(angle, 6 * torch.rand(200))) < 0.3
    assert angular_correlation(angle, torch.zeros(200)) == 0


def test_angular_correlation_is_over_pairs_and_pearsons_where_angles_lie_close():
    generator = torch.Generator().manual_seed(0)
    a = 0.1 * torch.randn(40, generator=generator).double()
    b = a + 0.05 * torch.randn(40, generator=generator).double()
    x, y = (torch.sin(angle[:, None] - angle) for angle in (a, b))
    assert angular_correlation(a, b) == pytest.approx(float((x * y).sum() / (x.norm() * y.norm())))
    assert angular_correlation(a, b) == pytest.approx(float(torch.corrcoef(torch.stack([a, b]))[0, 1]), abs=0.005)


def test_angular_correlation_is_as_sure_where_directions_lie_all_round():
    generator = torch.Generator().manual_seed(0)
    told = []
    for _ in range(100):
        angle = 2 * torch.pi * torch.rand(200, generator=generator)
        told.append(angular_correlation(angle, angle + 0.4 * torch.randn(200, generator=generator)))
    assert 0.78 < min(told) < max(told) < 0.92  # exp(-0.4²) is 0.85


def test_umap_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtra, match=r"dila-wm\[analysis\]"):
        umap(torch.randn(30, 4))


@pytest.mark.slow
def test_umap_keeps_neighbours_and_repeats():
    x = torch.randn(60, 6)
    points = umap(x)
    assert trustworthiness(x, points) > 0.6
    assert torch.equal(points, umap(x))
