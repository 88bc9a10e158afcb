"""Nonlinear probe: how well y can be predicted from x by a small MLP.

Two hidden layers, trained by full-batch AdamW with early stopping on inner held-out episodes. Inputs must be
standardised; wide ones are first projected to their leading principal components (few rows span no more).
"""

import torch
from torch import nn

from dila.analysis.probe import INNER, draw_episodes
from dila.shapes import Float, Int, Tensor

HIDDEN = 128
STEPS = 400
EVERY = 20
RATE = 3e-3
DECAYS = (1e-2, 1.0)
"""Weight decays to choose from."""
WIDEST = 256


def fit_mlp(
    x: Float[Tensor, "N Dx"],
    y: Float[Tensor, "N Dy"],
    episode: Int[Tensor, " N"],
    x_new: Float[Tensor, "M Dx"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, "M Dy"], float]:
    """Return predictions at new inputs and the chosen weight decay: a `dila.analysis.probe.Fit`.

    Inner held-out episodes choose weight decay and number of steps; the network is then trained again on all rows.
    """
    x, x_new = _narrowed(x.float(), x_new.float())
    mean, scale = y.mean(0), y.std(0, correction=0).clamp_min(1e-12)
    goal = ((y - mean) / scale).float()
    inner = draw_episodes(episode, INNER, generator)
    seed = int(torch.randint(2**31, (), generator=generator))
    best = min(
        (error, steps, decay)
        for decay in DECAYS
        for steps, error in _trained(x[~inner], goal[~inner], decay, STEPS, seed, (x[inner], goal[inner]))[1]
    )
    _, steps, decay = best
    network, _ = _trained(x, goal, decay, steps, seed)
    with torch.no_grad():
        return mean + scale * network(x_new).double(), decay


def _trained(
    x: Tensor, y: Tensor, decay: float, steps: int, seed: int, watched: tuple[Tensor, Tensor] | None = None
) -> tuple[nn.Module, list[tuple[int, float]]]:
    """Train a network; return it and its errors on the ``watched`` rows every `EVERY` steps."""
    told = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(x.shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(),
            nn.Linear(HIDDEN, y.shape[1]),
        )  # fmt: skip
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=decay, fused=True)
        for step in range(1, steps + 1):
            optimiser.zero_grad()
            (network(x) - y).square().mean().backward()
            optimiser.step()
            if watched and step % EVERY == 0:
                with torch.no_grad():
                    told.append((step, float((network(watched[0]) - watched[1]).square().mean())))
    return network, told


def _narrowed(x: Tensor, x_new: Tensor) -> tuple[Tensor, Tensor]:
    """Project wide inputs to principal components on one common scale: whitening would amplify noise."""
    if x.shape[1] <= WIDEST:
        return x, x_new
    values, vectors = torch.linalg.eigh(x.double() @ x.double().T)
    keep = values > 1e-6 * values[-1]
    keep[: -min(WIDEST, len(x))] = False
    axes = (x.double().T @ (vectors[:, keep] / values[keep].sqrt())).float()
    scale = (values[keep].mean() / len(x)).sqrt().float()
    return x @ axes / scale, x_new @ axes / scale
