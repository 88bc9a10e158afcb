"""Evaluation during training: held-out errors by horizon, and pictures of true and predicted frames."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from dila.data import Clips, Mixture, collate_clips
from dila.errors import DilaError
from dila.imagine.pictures import Rows, fit_colours, paint, write_sheet
from dila.imagine.rollout import rollout
from dila.interop.models import AnyModel
from dila.metrics.features import one_step_ratio, rollout_ratio
from dila.metrics.latent import effective_rank, scale
from dila.protocols import FrameDecoder, LatentActionModel
from dila.shapes import Actions, Features, Float, Frames, LatentActions, Pixels, Tensor
from dila.train.material import Material, Split, cut, features, flat_actions, frame_size, mix
from dila.train.objectives import Outcome
from dila.train.run import Run
from dila.vision import FrozenEncoder

PICTURED = 2
"""Number of clips of each data set on a contact sheet."""

_log = logging.getLogger(__name__)

MOMENTS = 16
"""Number of frames per clip on a contact sheet."""

PART = 4
"""Clips per batch in evaluation."""

PICTURE_SIZE = 96
"""Side, in pixels, of pictures of features."""


class Predicted(NamedTuple):
    """Predictions of frames 1..K of some clips."""

    z: LatentActions
    one_step: Features
    rollout: Features | None
    """None if the model has no latent actions."""
    action_rollout: Features | None
    """Rollout under real actions; None if the run does not use any."""


class Seen(NamedTuple):
    """Result of an evaluation: numbers for the log, and the rows of a contact sheet."""

    values: dict[str, Any]
    rows: Rows

    def save(self, path: Path) -> None:
        """Write the contact sheet as .png, atomically."""
        write_sheet(path, self.rows, columns=MOMENTS)


def latents(outcome: Outcome) -> dict[str, Float[Tensor, ""]]:
    """Statistics of a batch's latents that reveal a collapse."""
    told = {"scale_z": scale(outcome.z), "rank_z": effective_rank(outcome.z)}
    if outcome.s is not None:
        told["scale_s"] = scale(outcome.s)
    if outcome.perplexity is not None:
        told["perplexity"] = outcome.perplexity
    return told


class HeldOut:
    """Fixed held-out clips of each data set of a run; training clips if none can be held out.

    Args:
        run: resolved run, see `dila.train.material.resolve`.
        material: data of the run.
        device: device of the model.

    Raises:
        DilaError: no clip of a data set can be read.
    """

    def __init__(self, run: Run, material: Material, device: torch.device):
        self.precision, self.device = run.precision, device
        chosen = [_chosen(run, split, material.encoder, device) for split in material.splits]
        self.on = {split.name: its.on for split, its in zip(material.splits, chosen, strict=True)}
        self.e: Features = torch.cat([its.e for its in chosen])
        self.a: Actions | None = torch.cat([its.a for its in chosen if its.a is not None]) if run.uses_actions else None
        ends = np.cumsum([len(its.e) for its in chosen]).tolist()
        self.parts = {name: slice(end - len(its.e), end) for name, end, its in zip(self.on, ends, chosen, strict=True)}
        shown = [(part.start + place, frames) for part, its in zip(self.parts.values(), chosen, strict=True)
                 for place, frames in its.pictured.items()]  # fmt: skip
        self.shown = [place for place, _ in shown] or list(range(min(PICTURED, len(self.e))))
        self.frames: Frames | None = torch.stack([frames for _, frames in shown]) if shown else None

    @torch.no_grad()
    def evaluate(self, model: AnyModel, decoder: FrameDecoder | None) -> Seen:
        """Compute errors relative to repeating a frame, by position in the clip and by horizon, and draw pictures.

        Rows per clip: true frames, their features decoded, one-step predictions, the rollout from the first frame.
        """
        training = model.training
        model.eval()
        parts = [self._predict(model, slice(i, i + PART)) for i in range(0, len(self.e), PART)]
        model.train(training)
        seen = _joined(parts)
        return Seen(self._values(seen), self._rows(seen, decoder))

    def _predict(self, model: AnyModel, part: slice) -> Predicted:
        e, acting = self.e[part].to(self.device), cast(LatentActionModel[Any], model)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            prediction = model(e)
            rolled = rollout(acting, e[:, :1], prediction.z).float().cpu() if model.acts else None
            by_actions = None
            if self.a is not None:
                by_actions = rollout(acting, e[:, :1], model.encode_actions(self.a[part].to(self.device)))
                by_actions = by_actions.float().cpu()
        return Predicted(prediction.z.float().cpu(), prediction.e_hat.float().cpu(), rolled, by_actions)

    def _values(self, seen: Predicted) -> dict[str, Any]:
        each = {}
        if len(self.parts) > 1:
            for name, part in self.parts.items():
                cut_out: list[Any] = [None if whole is None else whole[part] for whole in seen]
                its = Predicted(*cut_out)
                each |= {f"{name}/{key}": value for key, value in self._numbers(its, self.e[part]).items()}
                each[f"{name}/on"] = self.on[name]
        on = " and ".join(sorted(set(self.on.values())))
        return {"on": on, **self._numbers(seen, self.e), **each}

    def _numbers(self, seen: Predicted, e: Features) -> dict[str, Any]:
        ratios = {"one_step": one_step_ratio(seen.one_step, e)}
        if seen.rollout is not None:
            ratios["rollout"] = rollout_ratio(seen.rollout, e)
        if seen.action_rollout is not None:
            ratios["action_rollout"] = rollout_ratio(seen.action_rollout, e)
        means = {f"{name}_ratio": float(ratio.mean()) for name, ratio in ratios.items()}
        each = {f"{name}_ratio_by_frame": [round(x, 6) for x in ratio.tolist()] for name, ratio in ratios.items()}
        latent = {"scale_z": float(scale(seen.z)), "rank_z": float(effective_rank(seen.z))}
        return {"clips": len(e), **means, **each, **latent}

    def _rows(self, seen: Predicted, decoder: FrameDecoder | None) -> Rows:
        first = self.e[self.shown, :1]
        predicted = {"one step ahead": seen.one_step, "rolled out": seen.rollout}
        if decoder is not None and self.frames is not None:
            predicted = {"true features, drawn": self.e[:, 1:]} | predicted
        rows = {what: torch.cat([first, row[self.shown]], dim=1) for what, row in predicted.items() if row is not None}
        if decoder is None or self.frames is None:
            pictures = dict(zip(["true", *rows], coloured([self.e[self.shown], *rows.values()]), strict=True))
        else:
            drawn = {what: decoder.decode(row.to(self.device)).cpu() for what, row in rows.items()}
            pictures = {"true": self.frames.float() / 255} | drawn
        return {
            f"clip {place + 1}, {what}": (clips[place].clamp(0, 1) * 255).round().byte()
            for place in range(len(self.shown))
            for what, clips in pictures.items()
        }


def coloured(rows: list[Features]) -> list[Pixels]:
    """Draw features as colours: the first three principal components of the first row's tokens, used for all rows."""
    colours = fit_colours(rows[0])
    larger = max(1, PICTURE_SIZE // max(rows[0].shape[2:4]))
    size = (rows[0].shape[2] * larger, rows[0].shape[3] * larger)
    return [paint(colours, row, size).float() / 255 for row in rows]


def _joined(parts: list[Predicted]) -> Predicted:
    whole: list[Any] = [None if its[0] is None else torch.cat(its) for its in zip(*parts, strict=True)]
    return Predicted(*whole)


class _Chosen(NamedTuple):
    """Clips of one data set for evaluation."""

    on: str
    e: Features
    a: Actions | None
    pictured: dict[int, Tensor]
    """Frames ``T 3 Y X`` of a few clips, by index; unreadable ones are left out."""


def _chosen(run: Run, split: Split, encoder: FrozenEncoder, device: torch.device) -> _Chosen:
    clips, frames, on = _clips(run, split, frame_size(encoder))
    places = torch.linspace(0, len(clips) - 1, min(run.evaluate_clips, len(clips))).round().int().tolist()
    read = [collate_clips([clips[i]]) for i in places]
    for clip in read:
        for reason in clip.skipped:
            _log.warning("an evaluation clip is skipped, because it cannot be read: %s", reason)
    e = torch.cat([features(clip.frames, encoder, device).cpu() for clip in read])
    a = torch.cat([flat_actions(clip) for clip in read]) if run.uses_actions else None
    pictured: dict[int, Tensor] = {}
    for place in _spread(len(read)):
        if len(pictured) < PICTURED and not read[place].skipped:
            with suppress(DilaError):  # cached features may exist without their video
                pictured[place] = frames[places[place]].frames
    return _Chosen(on, e, a, pictured)


def _spread(count: int) -> list[int]:
    """Order in which clips are chosen for pictures: widely spaced ones first, because neighbours look alike."""
    first = torch.linspace(0, count - 1, PICTURED).round().int().tolist()
    return list(dict.fromkeys([*first, *range(count)]))


def _clips(run: Run, split: Split, size: tuple[int, int]) -> tuple[Mixture, Clips, str]:
    """Clips of features, the same clips of frames, and the side of the split that they are from."""

    def both(episodes: Sequence[Any], frames: Sequence[Any], on: str) -> tuple[Mixture, Clips, str]:
        length = run.clips.frames
        return mix(run, {split.name: episodes}, length, size), cut(run, frames, length, size), on

    try:
        return both(split.held_out, split.held_out_frames, "held out")
    except DilaError:
        return both(split.train, split.train_frames, "training")
