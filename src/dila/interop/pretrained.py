"""A trained model on disk: the model, its encoder and decoder, and its frame timing, in one folder.

::

    config.json            format, kind, module of its class, the configs of model, encoder and decoder, stride, frames,
                           notes, version
    model.safetensors      weights of the model
    encoder.safetensors    feature statistics (mean, var); absent if features are not normalised
    decoder.safetensors    weights of the decoder; absent if there is none
    actions.json           real actions of an adapted model, with latent_to_action.safetensors (`dila.interop.actions`)
    README.md              model card; absent from checkpoints

The frozen encoder's own weights are not in the folder: its config names them.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dila.configs import from_json, to_json
from dila.errors import DilaError, MissingExtra, first_line
from dila.files import at_home, private, read_object, writing
from dila.interop.actions import ACTIONS, INVERSE, Actions, save_actions
from dila.interop.bounds import check_bounds
from dila.interop.card import CARD
from dila.interop.find import CONFIG, DECODER, ENCODER, MODEL, children, is_pretrained, locate, recover
from dila.interop.models import MODELS, AnyModel, kind_of
from dila.interop.released import load_released
from dila.interop.tensors import load_tensors, write_tensors
from dila.plugins import load_plugins
from dila.protocols import FrameDecoder
from dila.version import version
from dila.vision import FeatureStatistics, FrozenEncoder, RAEDecoder, build_decoder, build_encoder

FORMAT = 1
FILES = frozenset({CONFIG, MODEL, ENCODER, DECODER, CARD, ACTIONS, INVERSE})
"""All files of a model's folder; any other file there must not be removed."""
WEIGHTS = "weights"
"""Field of a decoder's config that names a weights file which the decoder reads itself."""
RELEASED_SUFFIXES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".safetensors"})
RELEASED_FRAMES = 16
"""Clip length that the released checkpoints were trained on (paper section 4)."""


class Pretrained(NamedTuple):
    """A model with its encoder, decoder and frame timing: all that is needed to use it."""

    model: AnyModel
    encoder: FrozenEncoder
    decoder: FrameDecoder | None
    stride: float
    """Seconds between frames in training."""
    frames: int
    """Frames per clip in training."""

    def to(self, device: torch.device | str) -> "Pretrained":
        """Move model, encoder and decoder, in place."""
        self.model.to(device)
        self.encoder.to(device)
        if isinstance(self.decoder, nn.Module):
            self.decoder.to(device)
        return self


def save_pretrained(
    folder: str | Path,
    pretrained: Pretrained,
    notes: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    card: str | None = None,
    actions: Actions | None = None,
) -> Path:
    """Write the folder, completely or not at all; an existing model is replaced.

    Args:
        folder: folder to write, created with its parents.
        pretrained: model to write.
        notes: JSON-serialisable notes (step, score, data) that loading does not need.
        half: write the weights as float16; loading converts them back to float32.
        card: text of ``README.md``, see `dila.interop.card`.
        actions: the real actions of an adapted model.

    Raises:
        DilaError: ``folder`` contains other files (such as a run's checkpoint) or cannot be written, or the parts do
            not fit together.
    """
    folder = at_home(folder)
    recover(folder)
    _check_fit(pretrained, str(folder))
    _check_free(folder)
    partial = private(folder, "partial")
    try:
        with writing(folder):
            partial.mkdir(parents=True)
            write_tensors(partial / MODEL, pretrained.model.state_dict(), half)
            if pretrained.encoder.statistics is not None:
                pretrained.encoder.statistics.save(partial / ENCODER)
            if isinstance(pretrained.decoder, nn.Module):
                write_tensors(partial / DECODER, pretrained.decoder.state_dict(), half)
            if actions is not None:
                save_actions(partial, *actions)
            if card is not None:
                (partial / CARD).write_text(card, encoding="utf-8")
            (partial / CONFIG).write_text(json.dumps(_describe(pretrained, notes), indent=2) + "\n", encoding="utf-8")
            _put_in_place(partial, folder)
    except OSError as error:
        raise DilaError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def load_pretrained(
    path: str | Path,
    *,
    device: str = "cpu",
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    encoder: FrozenEncoder | None = None,
    decoder: FrameDecoder | None = None,
    stride: int | float | None = None,
    draws: bool = True,
) -> Pretrained:
    """Load a trained model, in evaluation mode.

    Args:
        path: a folder that `save_pretrained` wrote; a run folder, whose newest complete ``checkpoints/step_XXXXXXX`` is
            loaded; a released DiLA file (.pt or .safetensors); or, if no such path exists, "box", the model that comes
            with the package, or an id ``user/name`` on the Hugging Face Hub.
        device: "auto" uses CUDA or Apple silicon if available.
        revision: revision of a Hub id; this and the next three are as in ``huggingface_hub.snapshot_download``.
        cache_dir: folder for downloads.
        local_files_only: use only previous downloads, not the network.
        token: access token for a private model.
        encoder: required for a released file; the released models use DINOv2 features with RAE's statistics. For
            other models, a replacement that gives the same features, such as one whose weights are in another place;
            it takes over the model's statistics.
        decoder: only for a released file: maps its features to pixels; None draws nothing.
        stride: only for a released file, and required there: seconds between frames.
        draws: False skips the decoder, which may be larger than the model.

    Raises:
        DilaError: no model exists there; a newer format; a field, file or tensor that is missing, unexpected,
            misshapen, damaged or not finite; an encoder that does not give the features that the model reads; an
            inapplicable argument.
    """
    target = pick_device(device)
    found = at_home(path)
    if found.is_file() and found.suffix.lower() in RELEASED_SUFFIXES:
        return _load_released(found, encoder, decoder, stride).to(target)
    if decoder is not None or stride is not None:
        raise DilaError(f"decoder= and stride= are for released files only, and {path} contains its own; omit them")
    folder = locate(path, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only, token=token)
    return _load_folder(folder, encoder, draws).to(target)


def pick_device(name: str) -> torch.device:
    """Return the device with this name; "auto" is CUDA, else Apple silicon, else the CPU.

    Raises:
        DilaError: an unknown name, or a device that is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:  # its message lists twenty devices
        raise DilaError(f"unknown device {name!r}; choose auto, cpu, cuda or mps") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DilaError(f"device {name!r} is not available: {first_line(error)}; try auto or cpu") from error
    return device


def read_notes(folder: str | Path) -> dict[str, Any]:
    """Return the notes of a folder from `find_pretrained`. Raises DilaError if its config cannot be read."""
    return _read_config(Path(folder) / CONFIG).get("notes", {})


def read_statistics(folder: Path) -> FeatureStatistics | None:
    """Return the feature statistics of the model in a folder, None for raw features. Raises DilaError if unreadable."""
    return _statistics(folder, _read_config(folder / CONFIG))


def _statistics(folder: Path, described: Mapping[str, Any]) -> FeatureStatistics | None:
    return FeatureStatistics.load(folder / ENCODER) if described["statistics"] else None


def _load_folder(folder: Path, encoder: FrozenEncoder | None, draws: bool) -> Pretrained:
    described = _read_config(folder / CONFIG)
    statistics = _statistics(folder, described)
    eyes = _load_encoder(folder, described, statistics, encoder)
    model = _load_model(folder, described)
    decoder = _load_decoder(folder, described, statistics) if draws else None
    pretrained = Pretrained(model.eval(), eyes, decoder, described["stride"], described["frames"])
    _check_fit(pretrained, str(folder))
    return pretrained


def _load_model(folder: Path, described: Mapping[str, Any]) -> AnyModel:
    kind = MODELS[described["kind"]]
    # On the meta device, which uses no memory, because the config's sizes are not yet checked against the tensors.
    with _buildable(folder / CONFIG):
        config = from_json(kind.config, described["model"], f"{folder / CONFIG}: model")
        with torch.device("meta"):
            model = kind.model(config)  # type: ignore[arg-type]
    load_tensors(model, folder / MODEL)
    if _is_whole(model):
        return model
    with _buildable(folder / CONFIG), torch.random.fork_rng(devices=[]):
        model = kind.model(config)  # type: ignore[arg-type]
    return load_tensors(model, folder / MODEL)


def _is_whole(model: nn.Module) -> bool:
    """Whether loading filled every tensor; false for non-persistent buffers and tensors in plain attributes."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return not any(tensor.is_meta for tensor in (*model.buffers(), *kept))


@contextmanager
def _buildable(path: Path) -> Iterator[None]:
    """Turn errors from building what a config describes into a DilaError: a foreign config may have any numbers."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DilaError(f"{path} has an invalid config: {first_line(error)}; copy the folder again") from error


def _load_encoder(
    folder: Path, described: Mapping[str, Any], statistics: FeatureStatistics | None, given: FrozenEncoder | None
) -> FrozenEncoder:
    if given is not None:
        if given.name != (name := described["encoder"].get("name")):
            raise DilaError(f"{folder} was trained with the encoder {name}, not {given.name}; give that encoder")
        return given.with_statistics(statistics)
    try:
        with _buildable(folder / CONFIG):
            return build_encoder(described["encoder"], statistics)
    except MissingExtra:
        raise
    except DilaError as error:
        local = isinstance(described["encoder"], Mapping) and "model" in described["encoder"]
        mend = "; or change encoder.model there, or give dila.load(..., encoder=...)" if local else ""
        raise DilaError(f"{folder / CONFIG}: {error}{mend}") from error


def _load_decoder(folder: Path, described: Mapping[str, Any], statistics: FeatureStatistics | None) -> Any:
    config, weights = described["decoder"], folder / DECODER
    if config is None:
        return None
    if WEIGHTS in config:  # the decoder reads them itself; folders of older versions name a file elsewhere
        with _buildable(folder / CONFIG):
            there = weights.is_file() or config[WEIGHTS] == DECODER
            return build_decoder({**config, WEIGHTS: str(weights if there else config[WEIGHTS])}, statistics)
    with _buildable(folder / CONFIG), torch.device("meta"):  # as `_load_model`
        decoder = build_decoder(config, statistics)
    if isinstance(decoder, nn.Module):
        load_tensors(decoder, weights)
        decoder.eval()
    return decoder


def _load_released(
    path: Path, encoder: FrozenEncoder | None, decoder: FrameDecoder | None, stride: int | float | None
) -> Pretrained:
    if encoder is None:
        raise DilaError(
            f"{path} is a released file, which does not state its encoder; give encoder=, for the original one "
            "dila.vision.build_encoder('dinov2', dila.vision.FeatureStatistics.load('stat.pt')), or import it once "
            "with: dila import-released"
        )
    if stride is None:
        raise DilaError(
            f"{path} is a released file, which does not state its stride; give stride=, the seconds between frames"
        )
    pretrained = Pretrained(load_released(path, encoder.grid), encoder, decoder, float(stride), RELEASED_FRAMES)
    _check_fit(pretrained, str(path))
    return pretrained


def _describe(pretrained: Pretrained, notes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": kind_of(pretrained.model.config),
        "module": type(pretrained.model).__module__,
        "dila_version": version(),
        "model": to_json(pretrained.model.config),
        "encoder": pretrained.encoder.config(),
        "statistics": pretrained.encoder.statistics is not None,
        "decoder": _describe_decoder(pretrained.decoder),
        "stride": pretrained.stride,
        "frames": pretrained.frames,
        "notes": dict(notes or {}),
    }


def _describe_decoder(decoder: FrameDecoder | None) -> dict[str, Any] | None:
    """Return the decoder's config; a weights file that it names becomes the folder's own."""
    config = None if decoder is None else decoder.config()
    return {**config, WEIGHTS: DECODER} if config and WEIGHTS in config else config


def _read_config(path: Path) -> dict[str, Any]:
    described = read_object(path, "copy the folder again")
    if not isinstance(described.get("format"), int):
        raise DilaError(f"{path} is not the config of a trained model: it has no field 'format'; check the path")
    if described["format"] > FORMAT:
        raise DilaError(
            f"{path} has format {described['format']}, written by dila {described.get('dila_version')}, but this "
            f"version reads format {FORMAT}; upgrade with: pip install -U dila-wm"
        )
    needed = ("kind", "model", "encoder", "statistics", "decoder", "stride", "frames")
    if missing := [name for name in needed if name not in described]:
        raise DilaError(f"{path} lacks the field {', '.join(missing)}; copy the folder again")
    load_plugins()
    if described["kind"] not in list(MODELS):  # a list, because the value may be unhashable
        package = str(described.get("module", "dila")).partition(".")[0]
        mend = "install a newer dila" if package == "dila" else f"import {package} first, or install it as a plugin"
        raise DilaError(
            f"{path} has the unknown model kind {described['kind']!r}; known kinds are {', '.join(MODELS)}; {mend}"
        )
    if not all(isinstance(described[name], Mapping | None) for name in ("encoder", "decoder")):
        raise DilaError(f"{path}: encoder and decoder should be objects; copy the folder again")
    for name in ("model", "encoder", "decoder"):
        check_bounds(described[name], f"{path}: {name}")
    return described


def _check_fit(pretrained: Pretrained, source: str) -> None:
    kind_of(getattr(pretrained.model, "config", pretrained.model))
    model, encoder, decoder = pretrained.model.config, pretrained.encoder, pretrained.decoder
    if (tuple(encoder.grid), encoder.feature_dim) != (tuple(model.grid), model.feature_dim):
        raise DilaError(
            f"{source}: the encoder gives features of {_size(encoder.grid, encoder.feature_dim)}, but the model reads "
            f"{_size(model.grid, model.feature_dim)}; give the encoder that the model was trained with"
        )
    if decoder is not None:
        _check_decoder(decoder, model.grid, model.feature_dim, source)
    stride, frames = pretrained.stride, pretrained.frames
    plain = isinstance(stride, int | float) and isinstance(frames, int)
    if not plain or not 0 < stride < math.inf or frames < 2:
        raise DilaError(f"{source}: stride = {stride} should be above 0 seconds, and frames = {frames} at least 2")


def _check_decoder(decoder: FrameDecoder, grid: tuple[int, int], channels: int, source: str) -> None:
    reads = decoder.config().get("feature_dim", channels)
    if isinstance(decoder, RAEDecoder):
        side, reads = decoder.sizes.grid, decoder.sizes.features
        if (side, side) != tuple(grid):
            raise DilaError(
                f"{source}: the decoder reads {side} x {side} cells, but the model predicts {grid[0]} x {grid[1]}; "
                "give a decoder for these features"
            )
    if reads != channels:
        raise DilaError(
            f"{source}: the decoder reads {reads} channels, but the model predicts {channels}; give a decoder for "
            "these features"
        )


def _size(grid: tuple[int, int], channels: int) -> str:
    return f"{grid[0]} x {grid[1]} x {channels}"


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename ``partial`` to ``folder``; a non-empty folder cannot be overwritten, so it is set aside briefly."""
    old, present = private(folder, "old"), folder.exists()
    if present:
        os.replace(folder, old)
    try:
        os.replace(partial, folder)
    except BaseException:
        if present:
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_free(folder: Path) -> None:
    if folder.exists() and not is_pretrained(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise DilaError(f"{folder} exists but is not a folder of a trained model; choose another name or remove it")
    if others := sorted({child.name for child in children(folder)} - FILES):
        raise DilaError(f"{folder} contains other files, {', '.join(others)}, which would be lost; choose another name")
