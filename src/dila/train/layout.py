"""Dynamics under real actions, in structure space alone: the cheap half of adapting a model.

The paper's third stage draws every frame that it imagines and trains all of the model. What plans in structure space
need is less: that structure, moved by the FDM under the action encoder's z over as many frames as a plan looks ahead,
ends where it truly went. Structure is read once, from the frozen model, and only the FDM and the action encoder learn:
no backbone, memory or decoder is run.
"""

import torch
from tqdm import trange

from dila.data import Clips, load_clips
from dila.imagine.layout import Layout, LayoutState
from dila.imagine.rollout import steps
from dila.model.dila import DiLA
from dila.shapes import Actions, Structure, Tensor
from dila.train.material import flat_actions
from dila.train.run import Optimiser, Precision


@torch.no_grad()
def read_structure(
    model: DiLA, clips: Clips, precision: Precision = "fp32", batch: int = 32
) -> tuple[Structure, Actions]:
    """Structure and true actions of clips of features, held in memory; clips with unknown actions are left out."""
    layout, device = Layout(model), next(model.parameters()).device
    parts = []
    for clip in load_clips(clips, batch):
        a = flat_actions(clip)
        known = a.isfinite().all(dim=(1, 2))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            s = layout.read(clip.frames.to(device))
        parts.append((s.float().cpu()[known], a[known]))
    structures, actions = zip(*parts, strict=True)
    return torch.cat(structures), torch.cat(actions)


def layout_loss(model: DiLA, s: Structure, a: Actions, context: int = 2) -> Tensor:
    """Mean squared error of structure rolled out after the context, in units of how far it truly went."""
    z = model.encode_actions(a)
    first = context - 1
    _, past = model.fdm(s[:, :first], z[:, :first]) if first else (None, None)
    future = steps(Layout(model), LayoutState(s[:, first], past), z[:, first:])
    s_hat = torch.stack([made for _, made in future], dim=1)
    target = s[:, context:]
    went = (target - s[:, first : first + 1]).square().mean().clamp_min(1e-9)
    return (s_hat.float() - target).square().mean() / went


def fit_layout(
    model: DiLA,
    s: Structure,
    a: Actions,
    optimiser: Optimiser,
    count: int,
    batch: int,
    precision: Precision,
    seed: int,
    *,
    progress: bool = True,
) -> list[float]:
    """Train FDM and action encoder, in place.

    Args:
        model: with an action encoder that takes actions in their own units.
        s: structure of clips.
        a: their actions.
        optimiser: settings; its schedule is over these steps.
        count: steps.
        batch: clips of a step.
        precision: of the forward pass.
        seed: of the order of clips.
        progress: show a bar.

    Returns:
        The loss of every step.
    """
    assert model.action_encoder is not None
    trained = [*model.fdm.parameters(), *model.action_encoder[2].parameters()]
    # The first layer holds the units of the actions, which may be hundreds: as in `Learner` it learns standardised.
    mean, std = a.flatten(0, 1).mean(0), a.flatten(0, 1).std(0).clamp_min(1e-6)
    first = model.action_encoder[0]
    with torch.no_grad():
        first.bias.add_(first.weight @ mean)  # type: ignore[operator]
        first.weight.mul_(std)  # type: ignore[operator]
    trained += list(first.parameters())
    adam = torch.optim.AdamW(trained, lr=optimiser.lr, betas=optimiser.betas, weight_decay=optimiser.weight_decay)
    generator, device, losses = torch.Generator().manual_seed(seed), next(model.parameters()).device, []
    for step in trange(count, desc="structure", disable=not progress):
        rows = torch.randint(len(s), (batch,), generator=generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = layout_loss(model, s[rows].to(device), ((a[rows] - mean) / std).to(device))
        for group in adam.param_groups:
            group["lr"] = optimiser.rate(step, count)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, optimiser.clip)
        adam.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        first.weight.div_(std)  # type: ignore[operator]
        first.bias.sub_(first.weight @ mean)  # type: ignore[operator]
    return losses
