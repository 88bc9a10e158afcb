"""Geometry of a set of latent actions: projections to a plane, and how well they preserve neighbours.

UMAP (McInnes et al. 2018) needs the extra ``analysis``; PCA does not. Trustworthiness is that of Venna and Kaski
(2001), angular correlation that of Fisher and Lee (1983).
"""

import warnings
from typing import NamedTuple

import torch

from dila.errors import DilaError, MissingExtra
from dila.shapes import Float, Tensor

NEIGHBOURS = 10


class Plane(NamedTuple):
    """Points projected to a plane, and the projection."""

    points: Float[Tensor, "N 2"]
    axes: Float[Tensor, "D 2"]
    mean: Float[Tensor, " D"]
    share: tuple[float, float]
    """Share of the variance along each axis."""

    def project(self, directions: Float[Tensor, "M D"]) -> Float[Tensor, "M 2"]:
        """Project directions (not points) to the plane."""
        return directions.double() @ self.axes


def pca(x: Float[Tensor, "N D"]) -> Plane:
    """Project to the first two principal components; their signs are fixed by making the largest weight positive."""
    x = x.detach().cpu().double()
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
    axes = vectors.flip(1)[:, :2]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    shares = (values.flip(0)[:2] / values.sum().clamp_min(1e-30)).tolist()
    return Plane((x - mean) @ axes, axes, mean, (shares[0], shares[1]))


def umap(x: Float[Tensor, "N D"], seed: int = 0) -> Float[Tensor, "N 2"]:
    """Embed points in a plane with UMAP; deterministic for a given seed.

    Raises:
        MissingExtra: umap-learn is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from its imports, and that a seed disables multithreading
        try:
            from umap import UMAP
        except ImportError as error:
            raise MissingExtra("UMAP", "umap-learn", "analysis") from error
        points = UMAP(random_state=seed, n_neighbors=15, min_dist=0.1).fit_transform(x.detach().cpu().numpy())
    return torch.from_numpy(points).double()


def trustworthiness(x: Float[Tensor, "N D"], points: Float[Tensor, "N E"], neighbours: int = NEIGHBOURS) -> float:
    """Return how far neighbours among ``points`` are neighbours in ``x`` too: 1 if all are, about 0.5 by chance.

    Raises:
        DilaError: there are not more than twice as many points as neighbours.
    """
    count = len(x)
    if count < 2 * neighbours + 1:
        raise DilaError(
            f"trustworthiness of {neighbours} neighbours needs {2 * neighbours + 1} points, but there are {count}; "
            "give more"
        )
    far, near = (torch.cdist(part.double(), part.double()).fill_diagonal_(torch.inf) for part in (x, points))
    rank = far.argsort(1).argsort(1) + 1
    wrong = rank.gather(1, near.argsort(1)[:, :neighbours]) - neighbours
    return 1 - 2 * float(wrong.clamp_min(0).sum()) / (count * neighbours * (2 * count - 3 * neighbours - 1))


def angular_correlation(first: Float[Tensor, " N"], second: Float[Tensor, " N"]) -> float:
    """Return the correlation of two sets of angles in radians, -1 to 1; 0 if one does not vary.

    It correlates the sines of the differences between all pairs of points, so it needs no mean direction, which is
    noise for angles spread over the full circle. For such angles it is about the square of the mean cosine of the
    error; for angles close together it is Pearson's correlation.
    """
    (sin_a, cos_a), (sin_b, cos_b) = ((angle.double().sin(), angle.double().cos()) for angle in (first, second))
    together = _pairs(sin_a, cos_a, sin_b, cos_b)
    scale = (_pairs(sin_a, cos_a, sin_a, cos_a) * _pairs(sin_b, cos_b, sin_b, cos_b)).clamp_min(0).sqrt()
    return float(together / scale) if scale > 1e-12 * len(first) ** 2 else 0.0


def _pairs(sin_a: Tensor, cos_a: Tensor, sin_b: Tensor, cos_b: Tensor) -> Tensor:
    """Sum over all pairs of points of sin(a_i - a_j) sin(b_i - b_j)."""
    return (sin_a @ sin_b) * (cos_a @ cos_b) - (sin_a @ cos_b) * (cos_a @ sin_b)
