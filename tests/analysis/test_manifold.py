import sys

import pytest
import torch
from sklearn import manifold

from dila.analysis.manifold import circular_correlation, pca, trustworthiness, umap
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


def test_circular_correlation_wraps_round():
    angle = 20 * torch.rand(200) - 10
    assert circular_correlation(angle, angle + 2 * torch.pi + 0.3) == pytest.approx(1, abs=1e-5)
    assert circular_correlation(angle, -angle) == pytest.approx(-1, abs=1e-5)
    assert abs(circular_correlation(angle, 6 * torch.rand(200))) < 0.3
    assert circular_correlation(angle, torch.zeros(200)) == 0


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
