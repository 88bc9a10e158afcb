"""The training loop: trains a `Run` on one or several corpora; resumable at any step, on any number of devices.

::

    out/run.json                       the run, including the fields that depend on data and encoder
    out/log.jsonl                      one line per logged step and per evaluation; names are those of `Weights`
    out/checkpoints/step_0001000/      see `dila.train.checkpoint`; `load_pretrained(out)` loads the newest
    out/episodes.parquet               training and held-out episodes, see `dila.train.register`
    out/pictures/step_0001000.png      true and predicted frames
    out/decoder/                       state of the decoder's training
"""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dila.configs import to_json
from dila.errors import DilaError
from dila.files import alone, at_home
from dila.interop.models import AnyModel
from dila.interop.pretrained import Pretrained, load_pretrained, read_statistics
from dila.protocols import FrameDecoder
from dila.train.begin import DECODING, begin, check_start, grown, is_begun, settle
from dila.train.checkpoint import (
    TrainerState,
    load_trainer,
    newest,
    own_random_state,
    random_state,
    restore_process,
    save_checkpoint,
    tidy,
)  # fmt: skip
from dila.train.decoder import fit_decoder
from dila.train.faults import Faults, LostWorker, between_reads, with_others
from dila.train.learner import Learner, arrange, compiler_as_it_was, make_optimiser
from dila.train.log import Log, check_trackers, joined
from dila.train.material import (
    Batches,
    Material,
    action_statistics,
    default_cache,
    fingerprint,
    gather,
    held,
    open_data,
    resolve,
)  # fmt: skip
from dila.train.numerics import Spikes, deterministic, not_finite
from dila.train.objectives import Batch, Outcome
from dila.train.processes import accelerator_of, agreed, newest_of_all
from dila.train.recorded import Recorded, recordable
from dila.train.register import hold_to_register, trained_note, write_register
from dila.train.run import Run, Stage
from dila.train.spread import spread_of
from dila.train.stop import StopRequest
from dila.train.watch import HeldOut, latents

PICTURES = "pictures"
Data = str | Path | Sequence[str | Path]


def train(
    run: Run,
    data: Data,
    out: str | Path,
    *,
    cache_dir: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Path:
    """Train from scratch, or resume from the newest checkpoint in `out`.

    The device is CUDA, else Apple silicon, else the CPU, as chosen by accelerate (``ACCELERATE_USE_CPU=1`` forces the
    CPU). Under ``accelerate launch`` or ``torchrun`` all processes share each batch. On SIGTERM and SIGINT, a
    checkpoint is saved first; the exit codes are 143 and 130.

    Args:
        run: what to train; see `dila.recipes`.
        data: one corpus, see `dila.data.open_corpus`, or several, sampled by ``run.weights``.
        out: folder of the run.
        cache_dir: folder of cached features, shared by runs; default ``$DILA_CACHE`` or ``~/.cache/dila/features``.
        resume: resume from a checkpoint; False refuses a folder that contains a run.
        progress: show progress bars.

    Returns:
        Folder of the last checkpoint; `dila.interop.pretrained.load_pretrained` accepts it, and also `out`.

    Raises:
        DilaError: invalid data or settings; `out` is in use or has another run; loss not finite; collapsed latents.
        SystemExit: stopped by a signal, after saving.
    """
    out = at_home(out)
    accelerator = accelerator_of(run)
    if not resume and is_begun(out):
        raise DilaError(f"{out} already contains a run; resume it, or choose another folder")
    lock = alone(out) if accelerator.is_main_process else nullcontext()
    with lock, own_random_state(), compiler_as_it_was(run.compile):
        return _train(run, data, out, accelerator, Path(cache_dir or default_cache()), progress)


def _train(run: Run, data: Data, out: Path, accelerator: Any, cache_dir: Path, progress: bool) -> Path:
    check_trackers(run.trackers)
    encoder, model = begin(run)
    encoder.to(accelerator.device)
    corpora = open_data(run, data)
    run = resolve(run, encoder, corpora)
    check_start(model, run)
    begun = is_begun(out)
    if accelerator.is_main_process:
        settle(run, out)
        tidy(out, run.keep)
    checkpoint = newest_of_all(accelerator, out)
    if checkpoint is not None:
        encoder = encoder.with_statistics(read_statistics(checkpoint))
    # One process fills the cache, then the others read it.
    with accelerator.main_process_first():
        material = gather(run, encoder, corpora, cache_dir, progress=progress and accelerator.is_main_process)
    if begun:
        material = hold_to_register(out, material, None if checkpoint is None else run.tolerate)
    if checkpoint is None and accelerator.is_main_process:
        write_register(out, material, run.start, actions=run.uses_actions)
    with StopRequest() as stop, deterministic(run.deterministic), with_others(accelerator.num_processes):
        trainer = Trainer(run, out, material, model, accelerator, stop, progress)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        return trainer.run_all()


class Trainer:
    """State of a run during training.

    Args:
        run: resolved run, see `dila.train.material.resolve`.
        out: folder of the run.
        material: data of the run.
        model: model to start from; None for a new one.
        accelerator: an `accelerate.Accelerator`.
        stop: checked after each step.
        progress: show progress bars.
    """

    def __init__(
        self, run: Run, out: Path, material: Material, model: AnyModel | None, accelerator: Any, stop: StopRequest,
        progress: bool,
    ):  # fmt: skip
        on_gpu = accelerator.device.type != "cpu"  # on a CPU, the cache is memory-mapped anyway
        self.settings, self.out, self.material, self.stop = run, out, material, stop
        self.read_from = held(material, accelerator.device, run.hold) if on_gpu else material
        self.accelerator, self.progress = accelerator, progress and accelerator.is_main_process
        self.decoder = self._decoder()
        accelerator.wait_for_everyone()
        torch.manual_seed(run.seed)
        self.learner = self._learner(model)
        torch.manual_seed(run.seed + accelerator.process_index)  # different dropout in each process
        self.spread = spread_of(run.shard, accelerator)
        self.wrapped = self.spread.prepare(self.learner)
        self.optimiser = make_optimiser(self.learner.model, run.optimiser)
        self.records = run.graph and recordable(self.learner)
        self.recorded: Recorded | None = None  # for the current stage
        self.step = 0
        self.stage = 0
        self.sampler: dict[str, Any] = {}
        self.faults = Faults(run.tolerate)
        self.spikes = Spikes(run.guard and run.guard.spike, run.guard.patience if run.guard else 1)
        self.dying = 0
        self.saved_at = time.monotonic()
        self.held_out = HeldOut(run, material, accelerator.device) if accelerator.is_main_process else None
        self.trained_on = trained_note(out, run.clips.held_out) if accelerator.is_main_process else {}
        self.data = fingerprint(material.splits)

    def restore(self, checkpoint: Path) -> None:
        """Resume exactly from a checkpoint.

        Raises:
            DilaError: it cannot be loaded, or was trained on other data.
        """
        state = load_trainer(checkpoint)
        if state.data != self.data:
            raise DilaError(f"{checkpoint} was trained on other episodes than the data now has; give the same data")
        whole = self.spread.gather(self.learner)
        whole.model.load_state_dict(load_pretrained(checkpoint).model.state_dict())
        whole.load_action_weights(state.actions)
        self.spread.put(self.learner, self.optimiser, whole, state.optimiser)
        self.step, self.stage, self.sampler = state.step, state.stage, state.sampler
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.faults.load_state_dict(restore_process(state, rank, world, self.settings.seed))
        self.spikes.load_state_dict(state.spikes)
        self.dying = state.dying

    def run_all(self) -> Path:
        """Run all remaining steps; returns the last checkpoint."""
        log = None
        if self.accelerator.is_main_process:
            log = Log(self.out, self.settings.trackers, self.settings.name, to_json(self.settings), self.step)
        run, hidden = self.settings, not self.progress
        bar = tqdm(total=run.steps, initial=self.step, unit="step", desc=run.name, disable=hidden)
        try:
            with bar:
                self.learner.train()
                self._stages(log, bar)
        except LostWorker:  # noticed between two steps, so the state can be saved
            if self.step and self.accelerator.num_processes == 1:
                with between_reads():
                    self.save()
                if self.stop.signal is not None:  # the signal went to the whole process group
                    raise self.stop.exit() from None
            raise
        finally:
            if log is not None:
                log.close()
        last = newest(self.out)
        assert last is not None
        return last

    def _stages(self, log: Log | None, bar: "tqdm[Any]") -> None:
        end = 0
        for number, stage in enumerate(self.settings.stages):
            end += stage.steps
            if self.step >= end:
                continue
            self._one_stage(number, stage, end, log, bar)

    def _one_stage(self, number: int, stage: Stage, end: int, log: Log | None, bar: "tqdm[Any]") -> None:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        batches = Batches(self.settings, stage, self.read_from, self.accelerator.device, rank, world)
        batches.sampler.follow(self.sampler, number == self.stage)
        self.stage = number
        self.learner.objective, self.recorded = stage.objective, None
        self.optimiser.zero_grad(set_to_none=True)
        began, clips = time.monotonic(), 0
        for parts in batches:
            with self.spread.step(self.learner):
                outcome, norm, rate = self._optimise(parts, stage)
            self.faults.note(batches.share, batches.used())
            self.step, self.sampler, clips = self.step + 1, batches.sampler.state_dict(), clips + self.settings.batch
            bar.update()
            if self._is_due(self.settings.log_every, end):
                speed = clips / max(1e-9, time.monotonic() - began)
                began, clips = time.monotonic(), 0
                more = {"grad_norm": norm, "lr": rate, "clips_per_second": round(speed, 3)}
                self._log(log, bar, stage, outcome, more)
            if self._is_due(self.settings.evaluate_every, self.settings.steps):
                self._evaluate(log)
                began, clips = time.monotonic(), 0
            stopped, late = agreed(
                self.accelerator,
                self.stop.signal is not None,
                time.monotonic() - self.saved_at > self.settings.checkpoint_minutes * 60,
            )
            due = late or self._is_due(self.settings.checkpoint_every)
            if stopped or self.step == self.settings.steps or (due and not self.dying):
                self.save()
            if stopped:
                raise self.stop.exit() if self.stop.signal is not None else SystemExit(143)
            if self.step == end:
                return

    def _optimise(self, parts: list[Batch], stage: Stage) -> tuple[Outcome, float, float]:
        """Take an optimiser step; returns the outcome of the last part, with losses averaged over parts, processes."""
        outcomes = []
        done = torch.full((), self.step / self.settings.steps, device=self.accelerator.device)
        for i, batch in enumerate(parts):
            waiting = i + 1 < len(parts)
            with self.spread.waiting(self.wrapped) if waiting else nullcontext():
                outcomes.append(self._differentiate(batch._replace(done=done), 1 / len(parts)))
        names = list(outcomes[0].losses)
        table = torch.stack([torch.stack([o.total, *o.losses.values()]).detach().float() for o in outcomes]).mean(0)
        table = self.accelerator.reduce(table, reduction="mean")
        settings = self.settings.optimiser
        norm = self.spread.clip(self.learner, settings.clip)
        *numbers, grad = torch.cat([table, norm.detach().float().reshape(1).to(table.device)]).tolist()
        spike = self.spikes.stands_out(grad, self.step + 1)
        what = None if spike else not_finite(dict(zip(["total", *names], numbers, strict=True)), grad)
        if what is not None:
            raise DilaError(f"{what} not finite at step {self.step + 1}; {self._way_back()}")
        rate = settings.rate(self.step, self.settings.steps, stage.lr)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        if not spike:
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=not self.records)
        return outcomes[-1]._replace(total=table[0], losses=dict(zip(names, table[1:], strict=True))), grad, rate

    def _differentiate(self, batch: Batch, share: float) -> Outcome:
        """Run forward and backward pass of a part of a step; gradients, scaled by `share`, are accumulated."""
        if self.records:
            self.recorded = self.recorded or Recorded(self.learner, batch, share)
            return self.recorded(batch)
        outcome: Outcome = self.wrapped(*batch)
        self.accelerator.backward(outcome.total * share)
        return outcome

    def _log(self, log: Log | None, bar: "tqdm[Any]", stage: Stage, outcome: Outcome, more: dict[str, float]) -> None:
        latent = latents(outcome)
        # Averaged over processes, so that all of them make the same decision.
        table = torch.stack([value.float().to(self.accelerator.device) for value in latent.values()])
        numbers = self.accelerator.reduce(table, reduction="mean").tolist()
        watched = dict(zip(latent, numbers, strict=True))
        losses = {name: float(loss) for name, loss in outcome.losses.items()}
        drawn, skipped, listed = self.faults.agree(self.accelerator)
        known = {"stage": stage.title, "total": float(outcome.total), **watched, **more}
        values = joined(known, losses, stage.title)
        if log is not None:
            left_out = {} if self.spikes.factor is None else {"skipped_steps": self.spikes.skipped}
            log.write("train", self.step, {**values, "skipped_clips": skipped, **left_out})
            if listed:
                log.write("skipped", self.step, {"clips": listed})
        bar.set_postfix_str(" ".join(f"{name}={x:.3g}" for name, x in values.items() if isinstance(x, float)))
        self.faults.check(drawn, skipped, listed)
        self._check_alive(watched)

    def _evaluate(self, log: Log | None) -> None:
        whole = self.spread.gather(self.learner)
        if self.held_out is None or log is None:
            return
        with whole.raw_actions() as model:
            seen = self.held_out.evaluate(model, self.decoder)
        log.write("evaluation", self.step, seen.values)
        seen.save(self.out / PICTURES / f"step_{self.step:07d}.png")

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            DilaError: the weights are not finite; nothing is written.
        """
        whole, moments = self.spread.gather(self.learner), self.spread.moments(self.optimiser)
        finite = torch.stack([parameter.isfinite().all() for parameter in whole.model.parameters()]).all()
        if not finite:
            raise DilaError(f"the weights are no longer finite after step {self.step}; {self._way_back()}")
        from accelerate.utils import gather_object

        random, faults = gather_object([random_state()]), gather_object([self.faults.state_dict()])
        if self.accelerator.is_main_process:
            self._write(whole, moments, random, faults)
        self.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()

    def _write(
        self, whole: Learner, moments: dict[str, Any], random: list[dict[str, Any]], faults: list[dict[str, Any]]
    ) -> None:
        run = self.settings
        state = TrainerState(
            self.step, self.stage, moments, self.sampler, random, whole.action_weights(),
            self.data, faults, self.spikes.state_dict(), self.dying,
        )  # fmt: skip
        notes = {"run": run.name, "step": self.step, "steps": run.steps, "stage": run.stages[self.stage].title}
        notes |= self.trained_on
        with whole.raw_actions() as model:
            pretrained = Pretrained(model, self.material.encoder, self.decoder, run.clips.stride, run.clips.frames)
            save_checkpoint(self.out, pretrained, state, run.keep, notes)

    def _learner(self, model: AnyModel | None) -> Learner:
        run = self.settings
        trained = model is not None and model.action_encoder is not None
        model = grown(model, run)
        arrange(model, self.accelerator.device, run.recompute, run.compile)
        action_dim = run.model.real_action_dim if run.uses_actions else None
        learner = Learner(model, run.stages[0].objective, run.precision, action_dim)
        if action_dim is not None:
            width = self.material.train[0].columns["action"].shape[1]
            mean, std = action_statistics(self.material.train, action_dim // width)
            learner.scale_actions(mean, std, trained=trained)
        return learner

    def _decoder(self) -> FrameDecoder | None:
        """Decoder for pictures, trained before the model if the run has one; used by the main process only."""
        material, settings = self.material, self.settings.decoder
        if settings is None or not self.accelerator.is_main_process:
            return material.encoder.inverse()
        return fit_decoder(
            material.encoder, material.train_frames, material.train, settings, self.out / DECODING, stop=self.stop,
            progress=self.progress,
        )  # fmt: skip

    def _is_due(self, every: int | None, last: int | None = None) -> bool:
        return (every is not None and self.step % every == 0) or self.step == last

    def _check_alive(self, watched: dict[str, float]) -> None:
        guard = self.settings.guard
        if guard is None or self.step <= self.settings.optimiser.warmup:
            return
        dead = guard.dead(watched)
        self.dying = self.dying + 1 if dead else 0
        if self.dying >= guard.patience:
            told = " and ".join(f"{name} stayed below {bound:g}" for name, bound in dead.items())
            raise DilaError(
                f"latents collapsed: {told} for {self.dying} logged steps up to step {self.step}; {self._way_back()}"
            )

    def _way_back(self) -> str:
        last = newest(self.out)
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        return f"{kept}; lower the learning rate or change the weights of the loss, and train in another folder"
