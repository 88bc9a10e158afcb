"""Training of FDM and action encoder in structure space: the cheap part of adapting a model to real actions.

The paper's third stage decodes every imagined frame and trains the whole model. Planning in structure space needs only
that structure, rolled out by the FDM under the action encoder's z over the planning horizon, matches the true
structure. Structure is read once from the frozen model, and only the FDM and the action encoder are trained; backbone,
memory and decoder are not run.
"""

from copy import deepcopy

import torch
from tqdm import trange

from dila.data import Clips, load_clips
from dila.imagine.layout import Layout, LayoutState
from dila.imagine.rollout import steps
from dila.model.dila import DiLA
from dila.nn.real_actions import mean_and_std, read_raw, read_standardised
from dila.shapes import Actions, Float, Structure, Tensor
from dila.train.material import flat_actions
from dila.train.run import Optimiser, Precision

BATCH = 32
"""Clips per batch when nothing is trained."""


@torch.no_grad()
def read_structure(model: DiLA, clips: Clips, precision: Precision = "fp32") -> tuple[Structure, Actions]:
    """Read structure and true actions of clips of features into memory; clips with unknown actions are left out."""
    layout, device = Layout(model), next(model.parameters()).device
    parts = []
    for clip in load_clips(clips, BATCH):
        a = flat_actions(clip)
        known = a.isfinite().all(dim=(1, 2))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            s = layout.read(clip.frames.to(device))
        parts.append((s.float().cpu()[known], a[known]))
    structures, actions = zip(*parts, strict=True)
    return torch.cat(structures), torch.cat(actions)


def layout_loss(model: DiLA, s: Structure, a: Actions, context: int = 2) -> Float[Tensor, ""]:
    """Mean squared error of the rolled-out structure, relative to repeating that of the last context frame."""
    missed, went = _distances(model, s, a, context)
    return missed / went.clamp_min(1e-9)


@torch.no_grad()
def layout_error(model: DiLA, s: Structure, a: Actions, context: int = 2) -> float:
    """`layout_loss` of any number of clips, computed in batches."""
    device, parts = next(model.parameters()).device, zip(s.split(BATCH), a.split(BATCH), strict=True)
    told = [len(s) * torch.stack(_distances(model, s.to(device), a.to(device), context)) for s, a in parts]
    missed, went = torch.stack(told).sum(0) / len(s)
    return float(missed / went.clamp_min(1e-9))


def _distances(model: DiLA, s: Structure, a: Actions, context: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean squared error of the rolled-out structure, and of repeating the structure of the last context frame."""
    z = model.encode_actions(a)
    first = context - 1
    _, past = model.fdm(s[:, :first], z[:, :first]) if first else (None, None)
    future = steps(Layout(model), LayoutState(s[:, first], past), z[:, first:])
    s_hat = torch.stack([made for _, made in future], dim=1)
    target = s[:, context:]
    return (s_hat.float() - target).square().mean(), (target - s[:, first : first + 1]).square().mean()


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
    context: int = 2,
    progress: bool = True,
) -> Float[Tensor, " count"]:
    """Train FDM and action encoder of a model in place; the model is in evaluation mode before and after.

    Args:
        model: model with an action encoder that reads actions in their own units.
        s: structure of clips.
        a: actions of the same clips.
        optimiser: optimiser settings; the schedule spans `count` steps.
        count: number of steps.
        batch: clips per step.
        precision: precision of the forward pass.
        seed: random seed of the order of clips and of dropout.
        context: number of true frames before the first imagined one.
        progress: show a progress bar.

    Returns:
        The loss of every step.
    """
    assert model.action_encoder is not None
    device, kept = next(model.parameters()).device, deepcopy(model.bottleneck.state_dict())
    trained = [*model.fdm.parameters(), *model.action_encoder.parameters()]
    # As in `Learner`, train on standardised actions: their own units may be in the hundreds.
    mean, std = (number.to(device) for number in mean_and_std(a.flatten(0, 1)))
    read_standardised(model.action_encoder, mean, std)
    adam = torch.optim.AdamW(trained, lr=optimiser.lr, betas=optimiser.betas, weight_decay=optimiser.weight_decay)
    generator, losses = torch.Generator().manual_seed(seed), []
    # Training mode enables dropout in the FDM, and gradients through codes in the bottleneck.
    model.fdm.train()
    model.bottleneck.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for step in trange(count, desc="structure", disable=not progress):
            rows = torch.randint(len(s), (batch,), generator=generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = layout_loss(model, s[rows].to(device), (a[rows].to(device) - mean) / std, context)
            for group in adam.param_groups:
                group["lr"] = optimiser.rate(step, count)
            adam.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, optimiser.clip)
            adam.step()
            losses.append(loss.detach())
    model.eval()
    model.bottleneck.load_state_dict(kept)  # undoes its usage counts
    read_raw(model.action_encoder, mean, std)
    return torch.stack(losses)
