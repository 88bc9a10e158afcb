"""A model with its encoder and decoder: infers latent actions from video, predicts futures and draws them as frames."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeGuard, TypeVar

import numpy as np
import torch
from torch import nn

from dila.data import open_corpus
from dila.data.given import as_frames, told
from dila.errors import DilaError
from dila.imagine.isolate import Isolated, isolate
from dila.imagine.label import Labelled, label
from dila.imagine.pictures import scaled
from dila.imagine.rebind import Rebound, rebind
from dila.imagine.rollout import rollout
from dila.imagine.transfer import Cycle, Transfer, cycle, transfer
from dila.imagine.windows import CHUNK, encode, infer_long, sample
from dila.model.dila import DiLA
from dila.protocols import Episode, FrameDecoder, FrameEncoder, LatentActionModel
from dila.shapes import Float, Tensor, UInt8

Video = str | Path | Tensor | np.ndarray
"""A video file or a folder of images, read at the model's stride; or uint8 frames, ``T 3 Y X`` or ``B T 3 Y X``, as a
tensor or a NumPy array, assumed to be one stride apart.
"""

DEFAULT_FRAMES = 16

SHOWN = 256
"""Maximum pixels of the longer side of a displayed picture."""

Model = TypeVar("Model", bound=LatentActionModel[Any])


class World(Generic[Model]):
    """A trained model with its encoder and decoder, for use on videos.

    For a path or ``T 3 Y X`` frames, results have no batch dimension; for ``B T 3 Y X`` frames they have one. No method
    keeps gradients; the functions of the same names in `dila.imagine`, which work on features, do.

    Args:
        model: any `LatentActionModel`, which is set to evaluation mode; `rebind` and `isolate` need a DiLA.
        encoder: maps frames to the model's input features.
        decoder: maps features to frames, for `draw`.
        stride: seconds between frames.
        frames: clip length that the model was trained on; long videos are processed in windows of this length.
        bf16: run the model under bfloat16 autocast.
    """

    def __init__(
        self,
        model: Model,
        encoder: FrameEncoder,
        decoder: FrameDecoder | None = None,
        stride: int | float = 0.1,
        frames: int = DEFAULT_FRAMES,
        *,
        bf16: bool = False,
    ):
        if not stride > 0 or frames < 2:
            raise DilaError(f"stride = {stride} must be above 0 and frames = {frames} at least 2")
        self.model: Model = model
        self.encoder, self.decoder = encoder, decoder
        self.stride, self.frames, self.bf16 = stride, frames, bf16
        if isinstance(model, nn.Module):
            model.eval()

    # Reading videos

    def features(self, video: Video, limit: int | None = None) -> Float[Tensor, "*batch T H W D"]:
        """Return features of the whole video, or of its first ``limit`` frames. All are held in memory.

        Raises:
            DilaError: the limit is below 1, or the input is not a video.
        """
        _check_limit(limit)
        return _first_if(_alone(video), self._features(video, limit))

    def pictures(self, video: Video, limit: int | None = None) -> UInt8[Tensor, "*batch T 3 Y X"]:
        """Return the frames that `features` reads, for display: in their own aspect ratio, at most `SHOWN` pixels long.

        Raises:
            DilaError: as `features`.
        """
        _check_limit(limit)
        if not _is_path(video):
            return _first_if(_alone(video), _small(_checked(video)[:, :limit]))
        episode, index = self._sampled(video, limit)
        parts = [index[start : start + CHUNK].tolist() for start in range(0, len(index), CHUNK)]
        return torch.cat([_small(episode.read(part)) for part in parts])

    def infer(self, video: Video) -> Float[Tensor, "*batch K Dz"]:
        """Return the latent actions between consecutive frames. A long file is read in pieces, with bounded memory."""
        with self.running():
            chunks = self._chunks(video, least=2) if _is_path(video) else self._features(video, least=2)
            return _first_if(_alone(video), infer_long(self.model, chunks, self.frames))

    # Imagining

    def rollout(
        self, video: Video, z: Float[Tensor, "*given J Dz"] | None = None, steps: int | None = None, context: int = 1
    ) -> Float[Tensor, "*batch K H W D"]:
        """Imagine the frames after the first ``context`` frames of the video; return their features.

        Args:
            video: the frames to start from; if ``z`` is given, frames after the context are not used.
            z: latent actions to follow, ``J Dz`` or ``B J Dz``; None uses the video's own.
            steps: number of frames to imagine; None imagines one for each action.
            context: number of true frames that the model sees.

        Raises:
            DilaError: fewer actions than steps, fewer frames than context, or actions that do not fit the model.
        """
        with self.running():
            e = self._features(video, max(1, context)) if z is not None else self._features(video, least=2)
            _check_context(context, e, left=0 if z is not None else 1)
            if z is None:
                followed = infer_long(self.model, e, self.frames)[:, context - 1 :]
            else:
                followed = self._actions(z, len(e)).to(e.device)
            steps = followed.shape[1] if steps is None else steps
            if not 0 < steps <= followed.shape[1]:
                raise DilaError(
                    f"steps = {steps} must be between 1 and {followed.shape[1]}, the number of latent actions"
                )
            return _first_if(_alone(video), rollout(self.model, e[:, :context], followed[:, :steps]).float())

    def transfer(self, source: Video, target: Video, context: int = 1) -> Transfer:
        """Replay the latent actions of ``source`` in the scene of ``target``: see `dila.imagine.transfer`.

        Raises:
            DilaError: the target has fewer frames than context, or the batches do not match.
        """
        with self.running():
            e_source, e_target = self._pair(source, target, limit=max(1, context))
            _check_context(context, e_target)
            made = transfer(self.model, e_source, e_target, context, self.frames)
            return _plain(made, _alone(source) and _alone(target))

    def cycle(self, source: Video, target: Video) -> Cycle:
        """Cycle transfer, from ``source`` to ``target`` and back: see `dila.imagine.transfer`."""
        with self.running():
            made = cycle(self.model, *self._pair(source, target, limit=1), self.frames)
            return _plain(made, _alone(source) and _alone(target))

    def rebind(self, structure: Video, content: Video) -> Rebound:
        """Combine the structure of one video with the content of another: see `dila.imagine.rebind`."""
        model = self._dila("rebind")
        with self.running():
            made = rebind(model, *self._pair(structure, content))
            return _plain(made, _alone(structure) and _alone(content))

    def isolate(self, video: Video) -> Isolated:
        """Freeze the structure of the video: see `dila.imagine.isolate`."""
        model = self._dila("isolate")
        with self.running():
            return _plain(isolate(model, self._features(video, least=3)), _alone(video))

    def draw(
        self, e: Float[Tensor, "*batch T H W D"], like: Tensor | np.ndarray | None = None
    ) -> UInt8[Tensor, "*batch T 3 Y X"]:
        """Convert features to frames, on the CPU.

        Args:
            e: features.
            like: frames ``... Y X`` whose shape the result is resized to, for a video that is not square; None keeps
                the decoder's own size.

        Raises:
            DilaError: the model has no decoder, or the features do not fit its encoder.
        """
        if self.decoder is None:
            raise DilaError("this model has no decoder, so it cannot draw frames; train one with: dila train-decoder")
        clips = self._seen(e)
        with self.running():
            drawn = [self.decoder.decode(part.float()).mul(255).round().byte().cpu() for part in clips.split(CHUNK, 1)]
        frames = _first_if(e.ndim == 4, torch.cat(drawn, dim=1))
        return frames if like is None else scaled(frames, max(frames.shape[-2:]), like.shape[-2:])

    def label(self, path: str | Path, out: str | Path, **options: Any) -> Labelled:
        """Write the latent actions of all videos under a path to one Parquet file: see `dila.imagine.label`."""
        return label(self, path, out, **options)

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        held = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((parameter.device for parameter in held), torch.device("cpu"))

    def to(self, device: torch.device | str) -> "World[Model]":
        """Move model, encoder and decoder in place; a part without a ``to`` method stays where it is."""
        parts: list[Any] = [self.model, self.encoder, self.decoder]
        for part in parts:
            if hasattr(part, "to"):
                part.to(device)
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context of every method here: no gradients, and bfloat16 autocast if ``bf16``.

        Not `torch.inference_mode`, whose tensors could not be used later in training or in planning by gradients.
        """
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def _features(self, video: Video, limit: int | None = None, least: int = 1) -> Float[Tensor, "B T H W D"]:
        with self.running():
            if _is_path(video):
                return torch.cat(list(self._chunks(video, limit, least)), dim=1)
            frames = _checked(video)[:, :limit]
            _check_length("the clip", frames.shape[1], least)
            return torch.cat([self.encoder.encode(part) for part in frames.split(CHUNK, dim=1)], dim=1)

    def _chunks(
        self, path: str | Path, limit: int | None = None, least: int = 1
    ) -> Iterator[Float[Tensor, "1 T H W D"]]:
        return encode(self.encoder, *self._sampled(path, limit, least))

    def _sampled(self, path: str | Path, limit: int | None = None, least: int = 1) -> tuple[Episode, np.ndarray]:
        """Return a video and the frame numbers to read from it."""
        episode = _one_episode(path)
        index = _unbroken(episode, self.stride)[:limit]
        _check_length(f"{path}, read every {self.stride:g} s,", len(index), least)
        return episode, index

    def _pair(self, first: Video, second: Video, limit: int | None = None) -> tuple[Tensor, Tensor]:
        """Return features of two videos with equal batch sizes; a batch of one is expanded to the other's."""
        e, other = self._features(first, least=2), self._features(second, limit)
        batch = max(len(e), len(other))
        if len(e) not in (1, batch) or len(other) not in (1, batch):
            raise DilaError(f"{len(e)} clips cannot be paired with {len(other)}; give equal numbers, or one clip")
        return e.expand(batch, -1, -1, -1, -1), other.expand(batch, -1, -1, -1, -1)

    def _actions(self, z: Any, batch: int) -> Float[Tensor, "B J Dz"]:
        """Check latent actions and expand those of one clip to the batch."""
        if not isinstance(z, Tensor) or z.dtype != torch.float32 or z.ndim not in (2, 3):
            raise DilaError(f"z should be a float32 tensor J Dz or B J Dz, not {told(z)}")
        if not z.isfinite().all():
            raise DilaError("z contains NaN or infinite numbers; give finite latent actions")
        clips = z if z.ndim == 3 else z[None]
        if len(clips) not in (1, batch):
            raise DilaError(f"z has a batch of {len(clips)}, but the video has {batch}; give equal batches, or one z")
        return clips.expand(batch, -1, -1)

    def _seen(self, e: Any) -> Float[Tensor, "B T H W D"]:
        """Check that features have the encoder's size, and add a batch dimension if there is none."""
        size = (*self.encoder.grid, self.encoder.feature_dim)
        ours = isinstance(e, Tensor) and e.is_floating_point() and e.ndim in (4, 5)
        if not ours or tuple(e.shape[-3:]) != size:
            shape = " ".join(map(str, size))
            raise DilaError(f"e should be features, a float tensor T {shape} or B T {shape}, not {told(e)}")
        return e if e.ndim == 5 else e[None]

    def _dila(self, verb: str) -> DiLA:
        if not isinstance(self.model, DiLA):
            raise DilaError(f"{verb} needs a DiLA, a model with structure and content, not {type(self.model).__name__}")
        if self.model.config.content is not None:
            raise DilaError(f"{verb} needs a model with content, but this one was trained with content=NoContent")
        return self.model


def _one_episode(path: str | Path) -> Episode:
    corpus = open_corpus(path)
    if len(corpus) != 1:
        raise DilaError(f"{path} contains {len(corpus)} videos; give one of them, or label all with: dila label")
    return corpus.episodes[0]


def _unbroken(episode: Episode, stride: float) -> np.ndarray:
    runs = sample(episode, stride)
    if len(runs) > 1:
        after = episode.times[runs[0][-1]]
        raise DilaError(
            f"{episode.id} has a gap in its timestamps: no frame is {stride:g} s after the one at {after:.2f} s; cut "
            "the video there, or re-encode it at a constant frame rate"
        )
    return runs[0]


def _is_path(video: Any) -> TypeGuard[str | Path]:
    return isinstance(video, str | os.PathLike)


def _checked(video: Any) -> UInt8[Tensor, "B T 3 Y X"]:
    frames = as_frames(video)
    if frames is None or 0 in frames.shape:
        raise DilaError(
            "a video should be a path, or a uint8 tensor or NumPy array of frames of shape T 3 Y X or B T 3 Y X, "
            f"not {told(video)}"
        )
    return frames if frames.ndim == 5 else frames[None]


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise DilaError(f"limit = {limit} must be at least 1; omit it for the whole video")


def _check_length(what: str, frames: int, least: int) -> None:
    if frames < least:
        raise DilaError(f"{what} has {frames} frame(s), but at least {least} are needed; give a longer one")


def _check_context(context: int, e: Tensor, left: int = 0) -> None:
    if left and not 1 <= context <= e.shape[1] - left:
        raise DilaError(
            f"context = {context} must be between 1 and {e.shape[1] - left}, so that a frame is left to imagine"
        )
    if not 1 <= context <= e.shape[1]:
        raise DilaError(f"context = {context} must be at least 1 and within the video ({e.shape[1]} frames read)")


def _alone(video: Video) -> bool:
    return getattr(video, "ndim", 4) == 4


def _small(frames: UInt8[Tensor, "*batch 3 _ _"]) -> UInt8[Tensor, "*batch 3 Y X"]:
    return scaled(frames, min(SHOWN, max(frames.shape[-2:])))


def _first_if(alone: bool, batched: Tensor) -> Tensor:
    return batched[0] if alone else batched


def _plain(result: Any, alone: bool) -> Any:
    """Convert a NamedTuple of tensors to float32, and remove the batch dimension if the input had none."""
    return type(result)(*(_first_if(alone, part.float()) for part in result))
