"""What squeezes a latent action: nearest codes (VQ), codes approached by noise (NSVQ), or a Gaussian with a prior.

Each reads ``... C`` and gives a `Bottlenecked`: what passes, the penalty that goes with it (its weight is the
caller's), and the codes where there are any. All compute in float32, whatever autocast does around them.
"""

from typing import NamedTuple

import torch
from torch import nn

from dila.shapes import Float, Int, Tensor

REPLACED = (1, *range(10, 100, 10), *range(100, 1_000, 100), *range(1_000, 5_000, 500))
"""Training steps after which dead codes are replaced: LAPA's, often at first, never after 5,000; and the first."""


class Bottlenecked(NamedTuple):
    """What comes out of a bottleneck."""

    z: Float[Tensor, "... Dz"]
    penalty: Float[Tensor, ""]
    codes: Int[Tensor, "..."] | None
    """Which entry of the codebook each vector is."""


class Codebook(nn.Module):
    """``codes`` vectors of ``dim`` numbers, how often each was used, and what comes in the place of those that are not.

    In training it counts; who trains replaces the dead ones between two steps (`dila.train.spread.Whole.step`).

    Args:
        codes: how many.
        dim: numbers in each.
        replaced: numbers of the training steps after which unused codes are replaced.
        dead: share of the uses below which a code counts as unused, in units of an equal share.
    """

    def __init__(self, codes: int, dim: int, *, replaced: tuple[int, ...] = REPLACED, dead: float = 0.01):
        super().__init__()
        self.entries = nn.Parameter(torch.randn(codes, dim))
        self.replaced, self.dead = frozenset(replaced), dead
        self.usage: Float[Tensor, " codes"]
        self.batches: Int[Tensor, ""]
        self.sample: Float[Tensor, "codes D"]
        self.register_buffer("usage", torch.zeros(codes))  # since dead ones were last replaced
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # training steps
        self.register_buffer("sample", torch.zeros(codes, dim))  # inputs of the last batch, or part of one

    def nearest(self, x: Float[Tensor, "... D"]) -> Int[Tensor, "..."]:
        """The entry closest to each vector; in training it is counted."""
        with torch.no_grad():
            flat = x.reshape(-1, x.shape[-1])
            distance = self.entries.square().sum(-1) - 2 * flat @ self.entries.T
            codes = distance.argmin(-1)
            if self.training:
                self.usage += torch.bincount(codes, minlength=len(self.usage)).to(self.usage.dtype)
                self.sample.copy_(flat[torch.randint(len(flat), (len(self.sample),), device=flat.device)])
        return codes.reshape(x.shape[:-1])

    def is_due(self) -> bool:
        """Whether the dead codes are to be replaced before the next step."""
        return int(self.batches) in self.replaced

    @torch.no_grad()
    def without_dead(self, entries: Float[Tensor, "codes D"]) -> Float[Tensor, "codes D"]:
        """The entries, given whole, with inputs of the last batch in the place of unused ones."""
        unused = self.usage < self.dead * self.usage.mean()
        return torch.where(unused[:, None], self.sample, entries)


class NSVQ(Codebook):
    """Noise-substitution vector quantisation (Vali and Backstrom 2022), as in LAPA.

    In training the error of the nearest code is replaced by noise of the same length, through which gradients reach
    both the input and the code, so that no penalty is needed; in evaluation the code itself passes.
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

    Codes begin near zero, evenly spread by 1 / ``codes``, as in the released code of both.

    Args:
        codes: how many.
        dim: numbers in each.
        commitment: weight of what moves inputs to their code.
        codebook: weight of what moves each used code to its inputs.
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
    """A Gaussian of ``dim`` numbers read off ``width``: a sample in training, the mean in evaluation.

    The penalty is its divergence from the standard normal, summed over numbers and averaged over vectors, as in
    AdaWorld.
    """

    def __init__(self, dim: int, width: int | None = None):
        super().__init__()
        self.moments = nn.Linear(width or dim, 2 * dim)

    def forward(self, x: Float[Tensor, "... C"]) -> Bottlenecked:
        """Mean or sample of each vector's Gaussian."""
        with torch.autocast(x.device.type, enabled=False):
            mean, log_variance = self.moments(x.float()).chunk(2, dim=-1)
            penalty = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
            z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean) if self.training else mean
            return Bottlenecked(z, penalty, None)


class Open(nn.Module):
    """No bottleneck: everything passes."""

    def forward(self, x: Float[Tensor, "... D"]) -> Bottlenecked:
        """``x`` as it is."""
        return Bottlenecked(x, x.new_zeros(()), None)


class Tokens(nn.Module):
    """A vector cut into equal tokens, each through the same bottleneck; the codes get an axis of tokens."""

    def __init__(self, each: nn.Module, tokens: int):
        super().__init__()
        self.each, self.tokens = each, tokens

    def forward(self, x: Float[Tensor, "... D"]) -> Bottlenecked:
        """What the tokens became, side by side again."""
        z, penalty, codes = self.each(x.unflatten(-1, (self.tokens, -1)))
        return Bottlenecked(z.flatten(-2), penalty, codes)


def perplexity(codes: Int[Tensor, "..."]) -> Float[Tensor, ""]:
    """exp of the entropy of how often each code is used: 1 at collapse, their number when all are used alike."""
    share = torch.bincount(codes.flatten()).float()
    return torch.special.entr(share / share.sum().clamp_min(1)).sum().exp()
