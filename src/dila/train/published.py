"""Objective of the baselines: the error of the next frame, and the penalties of their bottleneck."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache

import torch

from dila.baselines.adaworld_diffusion import AdaWorldDiffusion
from dila.baselines.frame_model import FrameModel
from dila.errors import DilaError
from dila.metrics.image import find_lpips
from dila.model.losses import feature_loss, motion_weight
from dila.nn.bottleneck import perplexity
from dila.shapes import Features, Float, Tensor
from dila.train.objectives import Batch, Outcome
from dila.train.ranges import check_weighed
from dila.vision.pixels import assemble


@dataclass(frozen=True)
class PublishedWeights:
    """Weight of each term, by its name; a model has those of its bottleneck. 0 disables a term.

    Args:
        feature: squared error of the predicted frame.
        commitment: codebook and commitment loss (Moto, villa-X); the share of the inputs is ``beta`` of the model.
        kl: KL divergence of the Gaussian from the standard normal (AdaWorld).
        denoising: denoising loss (AdaWorld's diffusion model, whose feature loss is then 0).
        lpips: LPIPS of the predicted frame, on VGG16, for models of pixels (Moto's paper has 1; its code computes the
            term without gradient, which is equivalent to 0).
    """

    feature: float = 1.0
    commitment: float = 1.0
    kl: float = 2e-4
    denoising: float = 1.0
    lpips: float = 0.0


@dataclass(frozen=True)
class Published:
    """Objective of a baseline: every frame is predicted from the true frame before it.

    Args:
        weights: weights of the terms; the defaults are the published ones.
        motion: strength of the weight on tokens that changed since the first frame, as in `Terms`; 0 as published.
    """

    weights: PublishedWeights = field(default_factory=PublishedWeights)
    motion: float = 0.0

    def __call__(self, model: FrameModel | AdaWorldDiffusion, batch: Batch) -> Outcome:
        """Compute the loss of a batch.

        Raises:
            DilaError: ``lpips`` has a weight, but is not available or the features are not pixels; or the model's
                penalty has no weight of its name.
        """
        e, made = batch.e, model(batch.e)
        weight = motion_weight(e, self.motion) if self.motion else None
        weights = asdict(self.weights)
        losses = {"feature": feature_loss(made.e_hat, e[:, 1:], weight), **made.penalties}
        if self.weights.lpips:
            losses["lpips"] = lpips_loss(made.e_hat, e[:, 1:])
        check_weighed(self.weights, *losses)
        # In evaluation mode a diffusion model has no denoising loss, the only one with a weight.
        losses = {name: loss for name, loss in losses.items() if weights[name]} or losses
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        used = None if made.codes is None else perplexity(made.codes)
        return Outcome(total, losses, None, made.z.detach(), used)


def lpips_loss(e_hat: Features, e: Features) -> Float[Tensor, ""]:
    """LPIPS between predicted and true frames, both given as patches of pixels; differentiable.

    Raises:
        DilaError: LPIPS is not available, or the features are not patches of pixels.
    """
    drawn, true = assemble(e_hat.float()), assemble(e.float())
    with torch.autocast(e.device.type, enabled=False):
        return _lpips(str(e.device))(drawn, true).mean()


@cache
def _lpips(device: str) -> Callable[[Tensor, Tensor], Tensor]:
    found = find_lpips(device, "vgg")
    if isinstance(found, str):
        raise DilaError(f"{found}; set the objective's weights.lpips to 0 to train without it")
    return found
