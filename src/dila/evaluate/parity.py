"""Compare the numbers of our model with those recorded from the released model.

The folder contains ``weights.safetensors`` (a released state dict, keys prefixed by ``weights/``), ``io.safetensors``
(inputs, all intermediate outputs, losses, gradients) and ``config.json`` (sizes and the released loss weights).
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file

from dila.errors import DilaError
from dila.imagine.rollout import steps
from dila.interop.released import from_released, released_name
from dila.model.dila import DiLA
from dila.shapes import Content, Features, Float, LatentActions, Tensor
from dila.train.objectives import ActionConditioned, Batch, Objective, OneStep, Rollout, Terms, Weights

TOLERANCE = 1e-4
_FILES = ("config.json", "weights.safetensors", "io.safetensors")
_INPUTS = {"x", "x_src", "z_random", "actions"}
_RELEASED_LOSS = {
    "feature": "sensory_gen", "structure": "grid", "action": "action", "diversity": "action", "norm": "l2",
    "symmetry": "symmetry",
}  # fmt: skip
_TERMS = Terms(as_released=True)
_PHASES: dict[str, Objective] = {
    "phase1": OneStep(_TERMS), "phase2": Rollout(_TERMS), "phase3": ActionConditioned(_TERMS)
}  # fmt: skip


class Recording(NamedTuple):
    """The model and the recorded numbers of a folder."""

    model: DiLA
    io: dict[str, Tensor]
    config: dict[str, Any]


def compare(folder: str | Path, device: str = "cpu") -> dict[str, float]:
    """Return the relative error of each recorded output, loss and gradient: ``max|ours - theirs| / max|theirs|``.

    Gradient norms recorded in the config are compared too, under ``grad_norm/``, relative to the largest of the phase.

    Raises:
        DilaError: a file of the folder is missing or damaged, or contains an unknown item.
    """
    recording = read_recording(folder, device)
    ours = dict(_outputs(recording)) | dict(_losses_and_gradients(recording))
    norms = _recorded_norms(recording.config)
    if unknown := sorted((recording.io.keys() | norms.keys()) - ours.keys() - _INPUTS):
        raise DilaError(f"{folder} contains items that cannot be compared: {', '.join(unknown)}; remove them")
    errors = {name: _error(name, ours[name], theirs) for name, theirs in recording.io.items() if name not in _INPUTS}
    return errors | {name: abs(float(ours[name]) - norm) / largest for name, (norm, largest) in norms.items()}


def _recorded_norms(config: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Gradient norms in the config, each with the largest norm of its phase."""
    norms = {}
    for phase, recorded in config.get("grad_norms", {}).items():
        known = {name: norm for name, norm in recorded.items() if norm is not None}
        largest = max(known.values(), default=1.0)
        norms |= {f"grad_norm/{phase}/{name}": (norm, largest) for name, norm in known.items()}
    return norms


def _weights(config: dict[str, Any]) -> dict[str, float]:
    """Weight of each released loss term in the recorded total; our default if the config has none."""
    recorded, weights = config.get("loss_weights", {}), asdict(Weights())
    return {name: recorded.get(f"{released}_loss", weights[name]) for name, released in _RELEASED_LOSS.items()}


def read_recording(folder: str | Path, device: str = "cpu") -> Recording:
    """Load the model and the recorded numbers of a folder. Raises DilaError if a file is missing or damaged."""
    folder = Path(folder)
    if missing := [name for name in _FILES if not (folder / name).is_file()]:
        raise DilaError(f"{folder} lacks {', '.join(missing)}; a parity folder contains {', '.join(_FILES)}")
    try:
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "weights.safetensors")
        io = load_file(folder / "io.safetensors")
    except (SafetensorError, ValueError) as error:
        raise DilaError(f"{folder} cannot be read ({error}); copy it again") from error
    state = {name.removeprefix("weights/"): tensor.float() for name, tensor in weights.items()}
    io = {name.removeprefix("io/"): tensor.float().to(device) for name, tensor in io.items()}
    if "x" not in io:
        raise DilaError(f"{folder}/io.safetensors lacks 'x', the input features [B, T, D, H, W]; record them")
    model = from_released(state, (io["x"].shape[3], io["x"].shape[4]), str(folder / "weights.safetensors"))
    return Recording(model.to(device), io, config)


def _error(name: str, ours: Tensor, theirs: Tensor) -> float:
    if ours.numel() != theirs.numel():
        raise DilaError(f"the recorded {name} has shape {list(theirs.shape)}, but ours has {list(ours.shape)}")
    ours, theirs = ours.detach().float().reshape(theirs.shape), theirs.float()
    if not (ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-12))


def _last(e: Tensor) -> Features:
    return rearrange(e, "b t d h w -> b t h w d")


def _first(e: Features) -> Tensor:
    return rearrange(e, "b t h w d -> b t d h w")


@torch.no_grad()
def _outputs(recording: Recording) -> Iterator[tuple[str, Tensor]]:
    model, io = recording.model, recording.io
    e = _last(io["x"])
    h, _ = model.backbone(e)
    seen = model.observe(e)
    out = model.predict(seen, e)
    ds = seen.s[:, 1:] - seen.s[:, :-1]
    yield from {
        "embedding_features": h,
        "structure_inf": seen.s,
        "content_frame": seen.c,
        "content_mem": seen.c_mem,
        "latent_actions": out.z,
        "latent_actions_backward": model.idm(-ds),
        "latent_action_pair0": model.idm(ds[:, :1]),
        "delta_structure": out.ds_hat,
        "delta_structure_step0": model.fdm(seen.s[:, :1], out.z[:, :1])[0],
        "structure_gen": out.s_hat,
        "embedding_gen": _first(out.e_hat),
    }.items()
    if "content_mem_official_step" in io:
        yield "content_mem_official_step", _memory_by_step(model, seen.c, io["content_mem_official_step"].shape[1])
    if "content_spatial_bias_row" in io:
        rows = io["content_spatial_bias_row"].shape[1]
        yield "content_spatial_bias_row", model.decoder.bias(model.config.grid)[:, :rows]
    _, states = model.memory(seen.c)
    for i, state in enumerate(states):
        rows = state.x.flatten(0, 1)
        recorded = io.get(f"ssm_state_{i}")
        yield f"ssm_state_{i}", rows if recorded is None else rows[: len(recorded)]
    for frames in _rollout_contexts(io):
        yield from _rollout(model, e[:, :frames], out.z, f"rollout{frames}").items()
    if "z_random" in io:
        yield from _prediction(model, e[:, :2], io["z_random"]).items()
    if "x_src" in io:
        z = model.infer(_last(io["x_src"]))
        yield "transfer/embedding_gen", model.predict(seen, e, z).e_hat
    if "actions" in io:
        yield "action_mlp", model.encode_actions(io["actions"])


def _memory_by_step(model: DiLA, c: Content, frames: int) -> Float[Tensor, "B K H W Dc"]:
    """Content memory of the last frames, read one by one after the others were read in parallel."""
    _, state = model.memory(c[:, :-frames])
    read = []
    for t in range(c.shape[1] - frames, c.shape[1]):
        c_mem, state = model.memory(c[:, t : t + 1], state)
        read.append(c_mem)
    return torch.cat(read, dim=1)


def _rollout_contexts(io: dict[str, Tensor]) -> list[int]:
    names = {name.split("/")[0] for name in io if name.startswith("rollout")}
    return sorted(int(name.removeprefix("rollout")) for name in names)


def _rollout(model: DiLA, context: Features, z: LatentActions, name: str) -> dict[str, Tensor]:
    """The released ``autoregressive_forward``, which also predicts the context frames after the first."""
    seen, state = model.observe(context), model.start(context)
    last = context.shape[1] - 1
    s_hat, e_hat, c_mem = [], [], []
    for k in range(last):
        _, s, e = model.imagine(state._replace(s=seen.s[:, k], c_mem=seen.c_mem[:, k]), z[:, k])
        s_hat.append(s)
        e_hat.append(e)
    for state, e in steps(model, state, z[:, last:]):  # noqa: B020
        s_hat.append(state.s)
        e_hat.append(e)
        c_mem.append(model.caught_up(state).c_mem)
    return {
        f"{name}/embedding_gen": _first(torch.stack(e_hat, 1)),
        f"{name}/structure_gen": torch.stack(s_hat, 1),
        f"{name}/content_mem": torch.stack(c_mem, 1),
    }


def _prediction(model: DiLA, context: Features, z: LatentActions) -> dict[str, Tensor]:
    """The released ``prediction``, which continues from the last context frame."""
    imagined = [(state.s, e) for state, e in steps(model, model.start(context), z)]
    s_hat, e_hat = (torch.stack(part, 1) for part in zip(*imagined, strict=True))
    return {"prediction/embedding_gen": _first(e_hat), "prediction/structure_gen": s_hat}


def _losses_and_gradients(recording: Recording) -> Iterator[tuple[str, Tensor]]:
    model, io = recording.model, recording.io
    e = _last(io["x"])
    actions = io["actions"][:, :-1] if "actions" in io else None
    weights = _weights(recording.config)
    phases = {name.split("/")[1] for name in [*io, *_recorded_norms(recording.config)] if name.count("/") > 1}
    for phase in sorted(phases & _PHASES.keys()):
        model.zero_grad()
        losses = _PHASES[phase](model, Batch(e, actions)).losses
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        total.backward()
        for released in set(_RELEASED_LOSS.values()):
            parts = [loss for name, loss in losses.items() if _RELEASED_LOSS[name] == released]
            yield f"loss/{phase}/{released}", torch.stack(parts).sum()
        yield f"loss/{phase}/total", total
        for name, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            yield f"grad/{phase}/{released_name(name)}", gradient
            yield f"grad_norm/{phase}/{released_name(name)}", gradient.norm()
