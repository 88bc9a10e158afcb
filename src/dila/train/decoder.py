"""Training of the light decoder that turns a world model's features into frames.

The frames of a step depend only on the seed and the step, so resuming needs only weights, optimiser state and step.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from dila.configs import to_json
from dila.data import open_corpus, split_episodes
from dila.data.clips import resized
from dila.errors import DilaError
from dila.files import alone, at_home, replacing
from dila.interop.actions import known_actions
from dila.interop.find import CONFIG, DECODER, find_pretrained, locate
from dila.interop.pretrained import Pretrained, load_pretrained, pick_device, read_notes, save_pretrained
from dila.shapes import Float, Tensor, UInt8
from dila.train.folder import find_run, held_out_of
from dila.train.material import default_cache, with_features
from dila.train.run import DecoderRun, Optimiser
from dila.train.stop import StopRequest
from dila.vision import (
    ConvDecoder,
    ConvDecoderConfig,
    FeatureCache,
    FrozenEncoder,
    RAEDecoder,
    build_decoder,
    decoder_loss,
)  # fmt: skip
from dila.vision.cache import some_frames
from dila.vision.stored import load_plain, write_plain

FILE = "decoder.pt"
SAVE_MINUTES = 2.0
SHOW_EVERY = 10


class Pairs(NamedTuple):
    """Training data of a decoder, in memory: features (bf16, as in the cache) and their frames."""

    e: Float[Tensor, "N H W D"]
    frames: UInt8[Tensor, "N 3 Y X"]


def train_decoder(
    path: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    settings: DecoderRun | None = None,
    *,
    held_out: float | None = None,
    fps: float | None = None,
    camera: str | None = None,
    cache_dir: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Train a decoder for a trained model and attach it.

    If interrupted, the same call resumes; on SIGTERM and SIGINT the state is saved first.

    Args:
        path: any model that `dila.interop.pretrained.load_pretrained` accepts.
        data: corpus; its held-out episodes are not trained on, so that the model can be evaluated on them.
        out: folder for the model with its decoder; None adds the decoder to the model's own folder.
        settings: settings of the decoder.
        held_out: share of the episodes held out; None uses that of the model's run, or 0.1.
        fps: frames per second; overrides the rate stated in the files. None uses the run's setting.
        camera: read only this camera of multi-camera recordings; None uses the run's setting.
        cache_dir: folder of cached features, see `dila.train.loop.train`.
        device: "auto", "cpu", "cuda", "mps".
        progress: show a progress bar.

    Returns:
        The folder with the decoder.

    Raises:
        DilaError: the model or the data cannot be read, or training with other settings or data was begun there.
    """
    settings = settings or DecoderRun()
    pretrained = load_pretrained(path)
    folder = find_pretrained(path) if out is None else at_home(out)
    encoder = pretrained.encoder.to(pick_device(device))
    found = find_run(path)
    run = found[1] if found else {}
    clips = run.get("clips", {})
    corpus = open_corpus(data, fps or clips.get("fps"), camera or clips.get("camera"))
    frames, _ = split_episodes(corpus, held_out_of(run) if held_out is None else held_out)
    cache = FeatureCache(encoder, cache_dir or default_cache(), progress=progress)
    cached = cache.episodes(frames)
    frames = with_features(frames, cached)
    work = folder.with_name(f"{folder.name}.decoder")
    with alone(work):
        with StopRequest() as stop:
            decoder = fit_decoder(encoder, frames, cached, settings, work, stop=stop, progress=progress)
        put_decoder(pretrained._replace(decoder=decoder.cpu()), path, out)
        (work / FILE).unlink()
        work.rmdir()
    return folder


def attach_rae(path: str | Path, weights: str | Path, out: str | Path | None = None) -> Path:
    """Add the published RAE decoder to a trained model; no training is needed.

    Args:
        path: any model that `dila.interop.pretrained.load_pretrained` accepts.
        weights: the RAE's decoder file, for raw features of the model's encoder.
        out: folder for the model with its decoder; None adds the decoder to the model's own folder.

    Returns:
        The folder with the decoder.

    Raises:
        DilaError: the model or the file cannot be read, or the decoder is for other features.
    """
    pretrained = load_pretrained(path, draws=False)
    decoder = build_decoder({"name": RAEDecoder.name, "weights": str(at_home(weights))}, pretrained.encoder.statistics)
    return put_decoder(pretrained._replace(decoder=decoder), path, out)


def put_decoder(complete: Pretrained, path: str | Path, out: str | Path | None) -> Path:
    """Write a model with its new decoder to `out`, or add the decoder to the model's own folder if None."""
    if out is None:
        return _attach(find_pretrained(path), complete)
    source = locate(path)
    return save_pretrained(out, complete, read_notes(source), actions=known_actions(source))


def fit_decoder(
    encoder: FrozenEncoder,
    frames: Sequence[Any],
    features: Sequence[Any],
    settings: DecoderRun,
    folder: Path,
    *,
    stop: StopRequest,
    progress: bool = True,
) -> ConvDecoder:
    """Train a decoder on pairs of features and frames, on the encoder's device; resumes from the state in `folder`.

    Args:
        encoder: encoder with statistics.
        frames: episodes of frames.
        features: the same episodes as features, or the same list as `frames` to encode them here.
        settings: settings of the decoder.
        folder: folder of the training state.
        stop: checked after each step.
        progress: show a progress bar.

    Raises:
        DilaError: `folder` has the state of a decoder with other settings or data, or the loss is not finite.
        SystemExit: stopped by a signal, after saving.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sizes = settings.size, settings.width, settings.max_width, settings.blocks
        decoder = ConvDecoder(ConvDecoderConfig(encoder.feature_dim, encoder.grid, *sizes)).to(encoder.device)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=settings.lr, weight_decay=1e-4, fused=True)
    path = folder / FILE
    described = {"settings": to_json(settings), "encoder": encoder.config(), "data": _digest(features)}
    first = _resume(path, described, decoder, optimiser)
    if first == settings.steps:
        return decoder.eval()
    pairs = gather_pairs(encoder, frames, features, settings)
    saved = time.monotonic()
    decoder.train()
    bar = tqdm(total=settings.steps, initial=first, desc="decoder", unit="step", disable=not progress)
    with bar:
        for step in range(first, settings.steps):
            losses = _step(decoder, optimiser, pairs, settings, step)
            bar.update()
            if step % SHOW_EVERY == 0:
                bar.set_postfix({name: f"{float(loss):.4f}" for name, loss in losses.items()})
            done = step + 1
            if done == settings.steps or stop.signal is not None or time.monotonic() - saved > SAVE_MINUTES * 60:
                _save(path, described, decoder, optimiser, done)
                saved = time.monotonic()
            if stop.signal is not None:
                raise stop.exit()
    return decoder.eval()


def gather_pairs(encoder: FrozenEncoder, frames: Sequence[Any], features: Sequence[Any], settings: DecoderRun) -> Pairs:
    """About ``settings.frames`` frames, spread evenly over the episodes, at the decoder's size, and their features."""
    e, pictures = [], []
    for place, wanted in some_frames(frames, settings.frames):
        read, its = frames[place].read(wanted), features[place]
        seen = encoder.encode(read[None])[0].cpu() if its is frames[place] else its.read(wanted)
        e.append(seen.bfloat16())
        pictures.append(resized(read, (settings.size, settings.size)))
    return Pairs(torch.cat(e), torch.cat(pictures))


def _step(
    decoder: ConvDecoder, optimiser: torch.optim.Optimizer, pairs: Pairs, settings: DecoderRun, step: int
) -> dict[str, Tensor]:
    device = next(decoder.parameters()).device
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    chosen = torch.randint(len(pairs.e), (settings.batch,), generator=generator)
    e, frames = pairs.e[chosen].to(device).float(), pairs.frames[chosen].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        drawn = decoder(e[:, None])
    losses = decoder_loss(drawn.float(), frames[:, None], foreground=settings.foreground, edges=settings.edges)
    loss = torch.stack(list(losses.values())).sum()
    if not torch.isfinite(loss):
        raise DilaError(f"the decoder's loss is {loss.item()} at step {step + 1}; lower decoder.lr")
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
    rates = Optimiser(lr=settings.lr, warmup=settings.warmup, schedule="cosine")
    for group in optimiser.param_groups:
        group["lr"] = rates.rate(step, settings.steps)
    optimiser.step()
    return {name: loss.detach() for name, loss in losses.items()}


def _digest(episodes: Sequence[Any]) -> str:
    """Hash of the ids, lengths and fingerprints of episodes."""
    told = "\n".join(f"{e.id} {len(e.times)} {e.fingerprint()}" for e in episodes)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _resume(path: Path, described: dict[str, Any], decoder: ConvDecoder, optimiser: torch.optim.Optimizer) -> int:
    """Load the training state from `path`; returns the number of steps done, 0 if there is no file."""
    if not path.is_file():
        return 0
    try:
        stored = load_plain(path)
        if described | stored["described"] != described:  # files of older versions do not describe their data
            raise DilaError(
                f"{path} was made with other settings, another encoder or other data; use the same ones, or remove "
                "the file to train from scratch"
            )
        decoder.load_state_dict(stored["decoder"])
        optimiser.load_state_dict(stored["optimiser"])
        return stored["step"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DilaError(f"{path} cannot be read ({error}); remove it to train the decoder from scratch") from error


def _save(
    path: Path, described: dict[str, Any], decoder: ConvDecoder, optimiser: torch.optim.Optimizer, step: int
) -> None:
    stored = {
        "described": described, "decoder": decoder.state_dict(), "optimiser": optimiser.state_dict(), "step": step,
    }  # fmt: skip
    with replacing(path) as partial:
        write_plain(partial, stored)


def _attach(folder: Path, complete: Pretrained) -> Path:
    """Add a decoder to a folder and keep its other files, such as a checkpoint's trainer state.

    The weights are written first: they are ignored until the config names them.
    """
    whole = save_pretrained(folder.with_name(f"{folder.name}.decoded"), complete, read_notes(folder))
    for name in (DECODER, CONFIG):
        os.replace(whole / name, folder / name)
    for left in whole.iterdir():
        left.unlink()
    whole.rmdir()
    return folder
