"""Start of a run: its encoder, its initial model, and the check of its settings against ``run.json``."""

import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dila.baselines.adaworld_diffusion import AdaWorldDiffusion, AdaWorldDiffusionConfig
from dila.configs import KIND, completed, to_json
from dila.errors import DilaError, first_line
from dila.files import write_json
from dila.interop.models import AnyModel, build
from dila.interop.pretrained import load_pretrained
from dila.model.config import DiLAConfig
from dila.train.checkpoint import newest
from dila.train.decoder import FILE as DECODER
from dila.train.folder import RUN, read_run
from dila.train.log import FILE as LOG
from dila.train.run import Run
from dila.vision import FeatureStatistics, FrozenEncoder, build_encoder

DECODING = "decoder"
"""Subfolder of a run in which its decoder is trained, before the model."""

FREE = frozenset(
    {"workers", "keep", "checkpoint_minutes", "checkpoint_every", "trackers", "recompute", "tolerate", "hold", "shard"}
)
"""Fields that may change on resume, because they do not affect what is learned or logged."""

DECODED = ("encoder", "statistics", "decoder", "start", "clips.held_out", "clips.fps", "clips.camera")
"""Prefixes of the fields that determine the decoder's training and its frames."""


def begin(run: Run) -> tuple[FrozenEncoder, AnyModel | None]:
    """Load the encoder, and the model to start from if the run names one.

    Raises:
        DilaError: one cannot be loaded, or the run's statistics do not fit the encoder's features.
    """
    if run.start is None:
        return _encoder_of(run), None
    pretrained = load_pretrained(run.start)
    return pretrained.encoder, pretrained.model


def _encoder_of(run: Run) -> FrozenEncoder:
    encoder = build_encoder(run.encoder)
    if run.statistics is None:
        return encoder
    statistics = FeatureStatistics.load(run.statistics)
    statistics.check_fit(encoder.grid, encoder.feature_dim, run.statistics)
    return encoder.with_statistics(statistics)


def grown(model: AnyModel | None, run: Run) -> AnyModel:
    """Build a model from the run's config, and copy the weights of `model` if given.

    Raises:
        DilaError: `model` has a different architecture.
    """
    fresh = build(run.model)
    if isinstance(fresh, AdaWorldDiffusion) and not isinstance(model, AdaWorldDiffusion):
        return _over(model, fresh, run)
    if model is None:
        return fresh
    try:
        lacking, unknown = fresh.load_state_dict(model.state_dict(), strict=False)
    except RuntimeError as error:
        raise DilaError(f"{run.start} has a different architecture than the run's model: {error}") from error
    if unknown or any(not name.startswith("action_encoder.") for name in lacking):
        raise DilaError(f"{run.start} has a different architecture than the run's model; set run.model to its config")
    return fresh


def check_start(model: AnyModel | None, run: Run) -> None:
    """Check early, before data is encoded, that the initial model fits and that the run's model can be saved.

    Raises:
        DilaError: as `grown`; or the run's model cannot be built on the meta device, as loading does, or has one
            parameter under two names, of which safetensors keeps only one.
    """
    _check_kept(run)
    if model is not None or isinstance(run.model, AdaWorldDiffusionConfig):
        with torch.device("meta"):  # only shapes are compared
            grown(None if model is None else build(model.config), run)


def _check_kept(run: Run) -> None:
    try:
        with torch.device("meta"):
            parameters = build(run.model).named_parameters(remove_duplicate=False)
    except (NotImplementedError, RuntimeError) as error:
        raise DilaError(
            f"run {run.name}: its model cannot be built on torch's device meta ({first_line(error)}), so a checkpoint "
            "could not be loaded; do not read tensor values in its constructor"
        ) from error
    names: dict[nn.Parameter, str] = {}
    for name, parameter in parameters:
        if (first := names.setdefault(parameter, name)) != name:
            raise DilaError(
                f"run {run.name}: {first} and {name} are the same parameter of its model, which cannot be saved; "
                "register it under one name and use it twice"
            )


def _over(lam: AnyModel | None, fresh: AdaWorldDiffusion, run: Run) -> AdaWorldDiffusion:
    """Put a trained latent action model into a new diffusion model that is conditioned on its actions."""
    if lam is None:
        raise DilaError(f"run {run.name} needs a trained latent action model; name it with --start FOLDER")
    if lam.config != fresh.config.lam:
        raise DilaError(f"{run.start} is not the latent action model of run {run.name}; set model.lam to its config")
    fresh.lam.load_state_dict(lam.state_dict())
    return fresh


def is_begun(out: Path) -> bool:
    """Whether training of a model or of its decoder has begun in this folder."""
    return _has_steps(out) or (out / DECODING / DECODER).is_file()


def settle(run: Run, out: Path) -> None:
    """Write ``run.json``, or check that the run begun in this folder has the same settings.

    A run that failed before its first step does not count as begun.

    Raises:
        DilaError: settings differ, and are named; or ``run.json`` is damaged.
    """
    path = out / RUN
    described = to_json(run)
    if path.is_file() and is_begun(out):
        different = changed(_of_today(read_run(path)), run)
        if not _has_steps(out):
            different = [told for told in different if told.startswith(DECODED)]
        if different:
            raise DilaError(f"{out} has a run with {'; '.join(different)}; use the same settings or another folder")
    write_json(path, described, lasting=True)


def changed(stored: Any, run: Run, free: Container[str] = FREE) -> list[str]:
    """List how a run differs from a stored ``run.json``, as `differences` does, without the fields in `free`."""
    different = differences(completed(stored, run), to_json(run))
    return [told for told in different if told.split(".")[0].split(" ")[0] not in free]


def _has_steps(out: Path) -> bool:
    log = out / LOG
    return newest(out) is not None or (log.is_file() and log.stat().st_size > 0)


def _of_today(described: dict[str, Any]) -> dict[str, Any]:
    """Add the kind of the model, which older files lack, to a stored run."""
    if isinstance(described.get("model"), dict):
        described["model"].setdefault(KIND, DiLAConfig.__name__)
    return described


def _are_parts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def differences(stored: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """Yield each leaf that differs as ``path = stored (now wanted)``, with the path as in flags: ``stages.0.steps``."""
    if _are_parts(stored) and _are_parts(wanted) and len(stored) == len(wanted):
        stored, wanted = ({str(place): each for place, each in enumerate(of)} for of in (stored, wanted))
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for key in {**stored, **wanted}:
            yield from differences(stored.get(key), wanted.get(key), f"{where}.{key}" if where else key)
    elif stored != wanted:
        yield f"{where} = {json.dumps(stored)} (now {json.dumps(wanted)})"
