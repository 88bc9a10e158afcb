"""Metrics that fall when the latent actions collapse, for training logs and results."""

import torch

from dila.shapes import Float, Tensor


def effective_rank(z: Float[Tensor, "*batch Dz"]) -> Float[Tensor, ""]:
    """exp of the entropy of the normalised singular values of centred z (Roy and Vetterli 2007): 1 to Dz.

    0 if all actions are equal, NaN if one is not finite.
    """
    flat = z.detach().reshape(-1, z.shape[-1]).cpu().double()
    if not flat.isfinite().all():
        return flat.new_tensor(float("nan"))
    singular = torch.linalg.svdvals(flat - flat.mean(0))
    total = singular.sum()
    if total <= 1e-12 * max(1.0, float(flat.abs().max())):
        return total.new_zeros(())
    share = singular / total
    return torch.special.entr(share).sum().exp()


def scale(x: Float[Tensor, "*batch C"]) -> Float[Tensor, ""]:
    """Standard deviation over all axes but the channels, averaged over the channels; 0 if nothing varies."""
    return x.detach().float().flatten(0, -2).std(dim=0, correction=0).mean()
