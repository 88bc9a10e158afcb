"""Cosine-similarity attention with learned scales: self-attention in space and in time, and cross-attention."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from dila.nn import kernels
from dila.nn.dropout import dropout
from dila.nn.position import rotate, turns
from dila.shapes import Float, Tensor

LOGIT_SCALE = 8.0
"""Queries and keys are unit vectors times learned scales; logits are 8 q.k (Henry et al. 2020), not q.k/sqrt(dh)."""
_LONG = 64
"""Number of keys from which fused attention kernels are used; our kernel over time takes clips shorter than this."""


class KeysValues(NamedTuple):
    """Keys and values of past frames."""

    keys: Float[Tensor, "B N heads T dh"]
    values: Float[Tensor, "B N heads T dh"]


class Attention(nn.Module):
    """Projections and scaled cosine attention; the methods differ in the axis that tokens attend along.

    Queries come from the normalised input. In self-attention, keys and values come from the unnormalised input, as in
    the released model. In cross-attention they come from the normalised context, preceded by ``null_tokens`` learned
    ones, to which a query can attend if nothing in the context fits.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        *,
        context_dim: int | None = None,
        null_tokens: int = 0,
        dropout: float = 0.0,
        rope_before_scale: bool = False,
    ):
        super().__init__()
        inner = heads * head_dim
        self.heads, self.dropout, self.rope_before_scale = heads, dropout, rope_before_scale
        self.norm = nn.LayerNorm(dim, bias=False)
        self.context_norm = nn.LayerNorm(context_dim, bias=False) if context_dim else None
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(context_dim or dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_dim))
        self.k_scale = nn.Parameter(torch.ones(head_dim))
        self.null_kv = nn.Parameter(torch.randn(heads, 2 * null_tokens, head_dim)) if null_tokens else None

    def space(
        self, x: Float[Tensor, "B T N D"], bias: Float[Tensor, "heads N N"] | None = None
    ) -> Float[Tensor, "B T N D"]:
        """Each token attends to all tokens of the same frame."""
        q, (k, v) = self._heads(self.to_q(self.norm(x))), self._split(self.to_kv(x))
        out = self._attend(self._unit(q, self.q_scale * LOGIT_SCALE), self._unit(k, self.k_scale), v, bias)
        return self.to_out(rearrange(out, "b t heads n d -> b t n (heads d)"))

    def time(
        self, x: Float[Tensor, "B T N D"], past: KeysValues | None = None
    ) -> tuple[Float[Tensor, "B T N D"], KeysValues]:
        """Each token attends to itself in this and earlier frames, with rotary positions from the start of the clip."""
        q, kv = self.to_q(self.norm(x)), self.to_kv(x)
        if past is None and self._fits_a_tile(q):
            return self._time_in_tiles(q, kv)
        parts = (q, *kv.chunk(2, dim=-1))
        q, k, v = (rearrange(part, "b t n (heads d) -> b n heads t d", heads=self.heads) for part in parts)
        start = 0 if past is None else past.keys.shape[-2]
        q, k = self._place(q, self.q_scale * LOGIT_SCALE, start), self._place(k, self.k_scale, start)
        if past is not None:
            k, v = torch.cat([past.keys, k], dim=-2), torch.cat([past.values, v], dim=-2)
        if q.is_cuda and q.shape[-2] == 1:
            out = self._look_back(q, k, v)
        else:
            out = self._attend(q, k, v, _causal_mask(q.shape[-2], k.shape[-2], q))
        return self.to_out(rearrange(out, "b n heads t d -> b t n (heads d)")), KeysValues(k, v)

    def _fits_a_tile(self, q: Tensor) -> bool:
        """Whether our Triton kernel can process the whole clip; it lacks the released order of scale and rotation."""
        fits = kernels.attend_back is not None and kernels.attends(q.unflatten(-1, (self.heads, -1)), 32)
        return fits and 1 < q.shape[1] < _LONG and not self.rope_before_scale

    def _time_in_tiles(self, q: Tensor, kv: Tensor) -> tuple[Tensor, KeysValues]:
        """`time` from the start of a clip by our Triton kernel, which takes q and kv as projected."""
        assert kernels.attend_back is not None
        q, kv = q.unflatten(-1, (self.heads, -1)), kv.unflatten(-1, (2, self.heads, -1))
        scales = self.q_scale.float() * LOGIT_SCALE, self.k_scale.float()
        turned, p = turns(q, q.shape[1], q.shape[-1] // 2), self.dropout if self.training else 0.0
        out, k = kernels.attend_back(q, kv, *scales, turned, kernels.seed(p, q), p)
        k, v = (rearrange(part, "b t n heads d -> b n heads t d") for part in (k, kv[:, :, :, 1]))
        return self.to_out(out.flatten(-2)), KeysValues(k, v)

    def read(self, context: Float[Tensor, "B T M C"]) -> tuple[Tensor, Tensor]:
        """Return keys and values of a context, null tokens first, for repeated use in `across`."""
        assert self.context_norm is not None
        k, v = self._split(self.to_kv(self.context_norm(context)))
        if self.null_kv is not None:
            null = repeat(self.null_kv, "heads (n two) d -> two b t heads n d", two=2, b=k.shape[0], t=k.shape[1])
            k, v = torch.cat([null[0].to(k.dtype), k], dim=-2), torch.cat([null[1].to(v.dtype), v], dim=-2)
        return self._unit(k, self.k_scale), v

    def across(self, x: Float[Tensor, "B T N D"], context: tuple[Tensor, Tensor]) -> Float[Tensor, "B T N D"]:
        """Each token attends to the context of its frame, or to the only context frame if there is one."""
        k, v = context
        q = self._unit(self._heads(self.to_q(self.norm(x))), self.q_scale * LOGIT_SCALE)
        frames = x.shape[1]
        if k.shape[1] == 1 and frames > 1:  # one context for all: fold time into the queries, without copies
            q = rearrange(q, "b t heads n d -> b 1 heads (t n) d")
            out = rearrange(self._attend(q, k, v), "b 1 heads (t n) d -> b t n (heads d)", t=frames)
        else:
            out = rearrange(self._attend(q, k, v), "b t heads n d -> b t n (heads d)")
        return self.to_out(out)

    def _split(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        k, v = kv.chunk(2, dim=-1)
        return self._heads(k), self._heads(v)

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t n (heads d) -> b t heads n d", heads=self.heads)

    @staticmethod
    def _unit(x: Tensor, scale: Tensor) -> Tensor:
        return _ScaledUnit.apply(x, scale.to(x.dtype))

    def _place(self, x: Tensor, scale: Tensor, start: int) -> Tensor:
        """Normalise, scale, rotate. The released model rotates first, so that its scales act on rotated pairs."""
        if self.rope_before_scale:
            return self._unit(rotate(x, start), scale)
        return rotate(self._unit(x, scale), start)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Softmax attention; the queries already include `LOGIT_SCALE`.

        Long sequences use a fused kernel: ours if a bias needs a summed gradient, else PyTorch's. Not on a CPU with
        gradients, where the fused backward is several times slower.
        """
        if k.shape[-2] >= _LONG and (q.is_cuda or not torch.is_grad_enabled()):
            return self._fused(q, k, v, bias)
        logits = q @ k.transpose(-1, -2)
        if bias is not None:
            logits += bias.to(logits.dtype)
        weights = logits.softmax(dim=-1).to(v.dtype)
        return dropout(weights, self.dropout, self.training) @ v

    def _look_back(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`_attend` for one query, where CUDA's matrix product is several times slower than elementwise products."""
        weights = (q * k).sum(-1, dtype=torch.float32).softmax(-1).to(v.dtype)
        return (dropout(weights, self.dropout, self.training).unsqueeze(-1) * v).sum(-2, keepdim=True)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Fused attention with a bias per head, ``heads N M``, or a shared mask, ``N M``."""
        frames, p = q.shape[:-3], self.dropout if self.training else 0.0
        mask = None if bias is None else bias.to(q.dtype)
        q, k, v = (part.flatten(0, -4) for part in (q, k, v))
        if mask is not None and mask.ndim == 3 and kernels.attend is not None and kernels.attends(q):
            tokens_first = (part.transpose(1, 2) for part in (q, k, v))
            out = kernels.attend(*tokens_first, mask, kernels.seed(p, q), p)[0].transpose(1, 2)
        else:
            mask = None if mask is None else mask.unsqueeze(0)
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, scale=1.0)
        return out.unflatten(0, frames)


class _ScaledUnit(torch.autograd.Function):
    """Unit vectors along the last axis, times a scale: `F.normalize` and a product in half the passes over memory."""

    @staticmethod
    def forward(ctx, x, scale):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).to(x.dtype)  # CUDA's autocast returns float32
        inverse = norm.clamp_min(1e-12).reciprocal_()
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, scale)
        return unit * scale

    @staticmethod
    def backward(ctx, g):
        unit, inverse, scale = ctx.saved_tensors
        along = g * unit
        gx = torch.addcmul(g * scale, unit, (along @ scale.unsqueeze(-1)), value=-1).mul_(inverse)
        return gx, along.flatten(0, -2).sum(0)


def _causal_mask(queries: int, keys: int, like: Tensor) -> Float[Tensor, "Tq Tk"]:
    """Return 0 for visible keys and -inf for later frames; the queries are the last frames of the keys."""
    mask = torch.full((queries, keys), float("-inf"), device=like.device, dtype=like.dtype)
    return mask.triu(keys - queries + 1)
