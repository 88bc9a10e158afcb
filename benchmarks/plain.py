"""The straightforward DiLA: the same mathematics and weights as `dila.model`, computed as the released code does it.

The baseline of `benchmarks/speed.py`. Written from the description of the released model, not from its code:
the scan holds decay and drive of all frames at once, the position bias runs its MLP over all pairs of cells, masks are
dense, the first frame's keys and values are made for every frame, convolutions are PyTorch's own, the IDM reads each
of its inputs by itself and some twice, the FDM runs twice, and every candidate of a plan encodes its own context and
draws every frame.
"""

import copy

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from dila.imagine.rollout import steps
from dila.model.dila import DiLA
from dila.model.fusion_decoder import FusionDecoder, Origin
from dila.model.losses import (
    action_loss,
    diversity_loss,
    feature_loss,
    moving_transitions,
    norm_loss,
    structure_loss,
    symmetry_loss,
)
from dila.nn.attention import LOGIT_SCALE, Attention
from dila.nn.mamba import Mamba, MambaState
from dila.nn.position import PEG, RelativePositionBias
from dila.train.objectives import Weights


def plain(model: DiLA) -> DiLA:
    """A copy of a model that computes the plain way."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        module.__class__ = _PLAIN.get(type(module), type(module))
    return copied


def one_step_loss(model: DiLA, e: Tensor, weights: Weights) -> Tensor:
    """The first stage's loss: five passes of the IDM and two of the FDM."""
    seen = model.observe(e)
    prediction = model.predict(seen, e)
    return _loss(model, seen.s, prediction.z, prediction.s_hat, prediction.e_hat, e[:, 1:], weights)


def rollout_loss(model: DiLA, e: Tensor, weights: Weights) -> Tensor:
    """The second stage's loss, through the rollout."""
    s = model.observe(e).s
    z = model.idm(s[:, 1:] - s[:, :-1])
    imagined = [(state.s, e_hat) for state, e_hat in steps(model, model.start(e[:, :1]), z)]
    s_hat, e_hat = (torch.stack(part, dim=1) for part in zip(*imagined, strict=True))
    return _loss(model, s, z, s_hat, e_hat, e[:, 1:], weights)


def plan_costs(model: DiLA, context: Tensor, z: Tensor, goal: Tensor) -> Tensor:
    """Costs of candidates ``S K Dz`` from one context ``1 T H W D``: squared distance to a structure ``H W Ds``."""
    state = model.start(context.expand(len(z), -1, -1, -1, -1))
    s_hat = torch.stack([state.s for state, _ in steps(model, state, z)], dim=1)
    return (s_hat - goal).square().mean((1, 2, 3, 4))


def _loss(model: DiLA, s: Tensor, z: Tensor, s_hat: Tensor, e_hat: Tensor, target: Tensor, weights: Weights) -> Tensor:
    ds = s[:, 1:] - s[:, :-1]
    ds_hat, _ = model.fdm(s[:, :-1], z)
    z_seen, z_there = model.idm(ds), model.idm(ds)
    z_back = model.idm(-ds.detach().flip(1)).flip(1)
    return (
        weights.feature * feature_loss(e_hat, target)
        + weights.structure * structure_loss(ds_hat, ds)
        + weights.action * action_loss(model.idm(s_hat - s[:, :-1]), z_seen)
        + weights.diversity * diversity_loss(z_seen)
        + weights.norm * norm_loss(z)
        + weights.symmetry * symmetry_loss(z_there, z_back, moving_transitions(ds, 0.1))
    )


class _PlainBias(RelativePositionBias):
    def forward(self, grid: tuple[int, int]) -> Tensor:
        rows, cols = grid
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(cols) + 0.5) / cols, indexing="ij")
        place = torch.stack([y, x], dim=-1).reshape(-1, 2).to(next(self.parameters()))
        offset = place[:, None] - place
        return self.net(offset.sign() * (1 + offset.abs()).log()).permute(2, 0, 1)


class _PlainPEG(PEG):
    def _convolve(self, x: Tensor) -> Tensor:
        return rearrange(self.conv(rearrange(x, "b t h w d -> b d t h w")), "b d t h w -> b t h w d")


class _PlainAttention(Attention):
    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        logits = q @ k.transpose(-1, -2)
        if bias is not None:
            logits = logits + bias.to(logits.dtype).expand(logits.shape).contiguous()
        weights = logits.softmax(dim=-1).to(v.dtype)
        return F.dropout(weights, self.dropout, self.training) @ v

    def across(self, x: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        k, v = (part.expand(-1, x.shape[1], -1, -1, -1) for part in context)
        q = self._heads(self.to_q(self.norm(x)))
        out = self._attend(self._unit(q, self.q_scale * LOGIT_SCALE), k, v)
        return self.to_out(rearrange(out, "b t heads n d -> b t n (heads d)"))


class _PlainMamba(Mamba):
    def forward(self, y: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        u, gate = self.in_proj(y).chunk(2, dim=-1)
        taps = self.conv.kernel_size[0]
        past = u.new_zeros(u.shape[0], taps - 1, u.shape[2]) if state is None else state.window.to(u.dtype)
        u = torch.cat([past, u], dim=1)
        window = u[:, u.shape[1] - (taps - 1) :]
        u = F.silu(rearrange(self.conv(rearrange(u, "r t e -> r e t")), "r e t -> r t e"))
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.state_dim, self.state_dim], dim=-1)
        dt = F.softplus(self.dt_proj(dt)).float()
        A = -self.A_log.float().exp()
        decay = torch.exp(dt.unsqueeze(-1) * A)
        drive = (dt * u.float()).unsqueeze(-1) * B.float().unsqueeze(2)
        x = torch.zeros_like(decay[:, 0]) if state is None else state.x.float()
        out = []
        for t in range(u.shape[1]):
            x = decay[:, t] * x + drive[:, t]
            out.append((x * C[:, t].float().unsqueeze(1)).sum(-1))
        y = torch.stack(out, dim=1) + u.float() * self.D
        return self.out_proj(y.to(gate.dtype) * F.silu(gate)), MambaState(window, x)


class _PlainDecoder(FusionDecoder):
    def forward(self, s_hat: Tensor, c_mem: Tensor, origin: Origin, windows=None):
        e0 = repeat(origin.e0, "b 1 h w d -> b t h w d", t=s_hat.shape[1])
        context = tuple(layer.across_origin.read(rearrange(e0, "b t h w d -> b t (h w) d")) for layer in self.layers)
        return super().forward(s_hat, c_mem, Origin(origin.e0, context), windows)


_PLAIN: dict[type, type] = {
    RelativePositionBias: _PlainBias,
    PEG: _PlainPEG,
    Attention: _PlainAttention,
    Mamba: _PlainMamba,
    FusionDecoder: _PlainDecoder,
}
