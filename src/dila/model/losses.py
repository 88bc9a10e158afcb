"""Loss terms (paper equation 6), each a mean over all elements.

e_hat, e   B K H W D    predicted and true features of frames 1..K
ds_hat, ds B K H W Ds   predicted and true change of structure
z, z_...   B K Dz       latent actions
"""

import torch
import torch.nn.functional as F

from dila.shapes import Bool, Features, Float, LatentActions, Structure, Tensor

Scalar = Float[Tensor, ""]


def feature_loss(e_hat: Features, e: Features, weight: Float[Tensor, "B K H W"] | None = None) -> Scalar:
    """Le: squared error of the predicted features, weighted by token if ``weight`` is given (not in the paper)."""
    error = (e_hat.float() - e.float()).square()
    if weight is None:
        return error.mean()
    return (error.mean(-1) * weight).mean()


def motion_weight(e: Features, strength: float) -> Float[Tensor, "B K H W"]:
    """Return token weights: 1 plus ``strength`` times the token's change from the first frame, relative to the mean.

    Normalised to mean 1 over the batch. Keeps a large static background from dominating the loss.
    """
    e = e.float()
    change = (e[:, 1:] - e[:, :1]).square().mean(-1)
    weight = 1 + strength * change / change.mean().clamp_min(1e-8)
    return weight / weight.mean()


def structure_loss(ds_hat: Structure, ds: Structure) -> Scalar:
    """Ls: squared error of the predicted change of structure. Detach ``ds`` to keep the target from shrinking."""
    return (ds_hat.float() - ds.float()).square().mean()


def action_loss(z_hat: LatentActions, z: LatentActions) -> Scalar:
    """Lz: squared error between the action inferred from the predicted change and the action that predicted it."""
    return (z_hat.float() - z.float()).square().mean()


def diversity_loss(z: LatentActions) -> Scalar:
    """0.5 exp(-10 sigma), sigma the standard deviation of z over batch and time, averaged over its channels.

    A single transition has no deviation: the loss is then the constant 0.5, where the released code gives NaN.
    """
    flat = z.float().flatten(0, 1)
    if len(flat) < 2:
        return flat.sum() * 0 + 0.5
    return 0.5 * torch.exp(-10 * flat.std(dim=0).mean())


def norm_loss(z: LatentActions) -> Scalar:
    """Mean Euclidean norm of z, not squared."""
    return z.float().norm(dim=-1).mean()


def symmetry_loss(z_forward: LatentActions, z_backward: LatentActions, moving: Bool[Tensor, "B K"]) -> Scalar:
    """Mean (cos + 1)^2 over moving transitions: a reversed transition has the opposite action. Zero if none moves."""
    cosine = F.cosine_similarity(z_forward.float(), z_backward.float(), dim=-1)
    return ((cosine + 1).square() * moving).sum() / moving.sum().clamp_min(1)


def moving_transitions(ds: Structure, threshold: float, relative: bool = True) -> Bool[Tensor, "B K"]:
    """Mark the transitions with ``||ds||`` above ``threshold``, in units of the batch's mean norm if ``relative``."""
    size = ds.detach().float().flatten(2).norm(dim=-1)
    return size > (threshold * size.mean() if relative else threshold)
