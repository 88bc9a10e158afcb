"""Bottlenecks of latent actions: nearest codes (VQ), codes approximated by noise (NSVQ), and a Gaussian with a prior.

Each maps ``... C`` to a `Bottlenecked`: the output, a penalty (weighted by the caller), and codes if there are any. All
compute in float32, regardless of autocast.
"""

from typing import NamedTuple

import torch
from torch import nn

from dila.shapes import Float, Int, Tensor

REPLACED = (1, *range(10, 100, 10), *range(100, 1_000, 100), *range(1_000, 5_000, 500))
"""Training steps after which dead codes are replaced: the first, then LAPA's, often at first and never after 5,000."""


class Bottlenecked(NamedTuple):
    """Output of a bottleneck."""

    z: Float[Tensor, "... Dz"]
    penalty: Float[Tensor, ""]
    codes: Int[Tensor, "..."] | None
    """Codebook index of each vector."""


class Codebook(nn.Module):
    """A codebook of ``codes`` vectors of ``dim`` numbers that counts uses and provides replacements for unused codes.

    It counts in training; the training loop replaces dead codes between steps (`dila.train.spread.Whole.step`).

    Args:
        codes: size of the codebook.
        dim: dimension of a code.
        replaced: training steps after which unused codes are replaced.
        dead: a code counts as unused below this share of the mean number of uses.
    """

    def __init__(self, codes: int, dim: int, *, replaced: tuple[int, ...] = REPLACED, dead: float = 0.01):
        super().__init__()
        self.entries = nn.Parameter(torch.randn(codes, dim))
        self.replaced, self.dead = frozenset(replaced), dead
        self.usage: Float[Tensor, " codes"]
        self.batches: Int[Tensor, ""]
        self.sample: Float[Tensor, "codes D"]
        self.register_buffer("usage", torch.zeros(codes))  # since dead codes were last replaced
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # number of training steps
        self.register_buffer("sample", torch.zeros(codes, dim))  # random inputs of the last batch

    def nearest(self, x: Float[Tensor, "... D"]) -> Int[Tensor, "..."]:
        """Return the nearest code of each vector; count them in training."""
        with torch.no_grad():
            flat = x.reshape(-1, x.shape[-1])
            distance = self.entries.square().sum(-1) - 2 * flat @ self.entries.T
            codes = distance.argmin(-1)
            if self.training:
                self.usage += torch.bincount(codes, minlength=len(self.usage)).to(self.usage.dtype)
                self.sample.copy_(flat[torch.randint(len(flat), (len(self.sample),), device=flat.device)])
        return codes.reshape(x.shape[:-1])

    def is_due(self) -> bool:
        """Whether dead codes must be replaced before the next step."""
        return int(self.batches) in self.replaced

    @torch.no_grad()
    def without_dead(self, entries: Float[Tensor, "codes D"]) -> Float[Tensor, "codes D"]:
        """Return the entries, given unsharded, with unused ones replaced by inputs of the last batch."""
        unused = self.usage < self.dead * self.usage.mean()
        return torch.where(unused[:, None], self.sample, entries)


class NSVQ(Codebook):
    """Noise-substitution vector quantisation (Vali and Backstrom 2022), as in LAPA.

    In training, the quantisation error is replaced by noise of the same norm, which passes gradients to both the input
    and the code, so that no penalty is needed. In evaluation, the output is the code.
    """

    def forward(self, x: Float[Tensor, "... D"]) -> Bottlenecked:
        """Quantise each vector."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            codes = self.nearest(x)
            nearest = self.entries[codes]
            if not self.training:
                return Bottlenecked(nearest, x.new_zeros(()), codes)
            noise = torch.randn_like(x)
            noise = noise / noise.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            error = (x - nearest).square().sum(-1, keepdim=True).clamp_min(1e-24).sqrt()
            return Bottlenecked(x + error * noise, x.new_zeros(()), codes)


class VQ(Codebook):
    """Vector quantisation with a straight-through gradient (van den Oord et al. 2017), as in Moto and villa-X.

    Codes are initialised uniformly within 1 / ``codes`` of zero, as in the released code of both.

    Args:
        codes: size of the codebook.
        dim: dimension of a code.
        commitment: weight of the term that moves inputs to their codes.
        codebook: weight of the term that moves codes to their inputs.
    """

    def __init__(self, codes: int, dim: int, *, commitment: float = 0.25, codebook: float = 1.0):
        super().__init__(codes, dim)
        nn.init.uniform_(self.entries, -1 / codes, 1 / codes)
        self.commitment, self.codebook = commitment, codebook

    def forward(self, x: Float[Tensor, "... D"]) -> Bottlenecked:
        """Quantise each vector."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            codes = self.nearest(x)
            nearest = self.entries[codes]
            penalty = self.codebook * (nearest - x.detach()).square().mean()
            penalty = penalty + self.commitment * (x - nearest.detach()).square().mean()
            return Bottlenecked(x + (nearest - x).detach() if self.training else nearest, penalty, codes)


class Gaussian(nn.Module):
    """A Gaussian of ``dim`` numbers, predicted from ``width`` numbers: a sample in training, the mean in evaluation.

    The penalty is its KL divergence from the standard normal, summed over numbers and averaged over vectors, as in
    AdaWorld.
    """

    def __init__(self, dim: int, width: int | None = None):
        super().__init__()
        self.moments = nn.Linear(width or dim, 2 * dim)

    def forward(self, x: Float[Tensor, "... C"]) -> Bottlenecked:
        """Return the mean or a sample of each vector's Gaussian."""
        with torch.autocast(x.device.type, enabled=False):
            mean, log_variance = self.moments(x.float()).chunk(2, dim=-1)
            penalty = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.training else mean
            return Bottlenecked(z, penalty, None)


class Open(nn.Module):
    """No bottleneck: the identity."""

    def forward(self, x: Float[Tensor, "... D"]) -> Bottlenecked:
        """Return ``x`` unchanged."""
        return Bottlenecked(x, x.new_zeros(()), None)


class Tokens(nn.Module):
    """Splits a vector into equal tokens that pass the same bottleneck; the codes get an axis of tokens."""

    def __init__(self, each: nn.Module, tokens: int):
        super().__init__()
        self.each, self.tokens = each, tokens

    def forward(self, x: Float[Tensor, "... D"]) -> Bottlenecked:
        """Return the concatenated outputs of the tokens."""
        z, penalty, codes = self.each(x.unflatten(-1, (self.tokens, -1)))
        return Bottlenecked(z.flatten(-2), penalty, codes)


def perplexity(codes: Int[Tensor, "..."]) -> Float[Tensor, ""]:
    """exp of the entropy of code usage: 1 if all inputs use one code, the number of codes if usage is uniform."""
    share = torch.bincount(codes.flatten()).float()
    return torch.special.entr(share / share.sum().clamp_min(1)).sum().exp()
