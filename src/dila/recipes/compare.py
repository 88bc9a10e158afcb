"""DiLA, its ablations and the baselines on equal terms: the same data, features, clips seen and seeds, one JSON a run.

::

    dila compare --data recordings/pusht --out runs/compare --parallel 2

    out/results/baseline-lapa-seed0.json    what a run scored, see `Settings` and `measure`
    out/baseline-lapa-seed0/                the run

What is finished is skipped, what was interrupted goes on; a run that failed has its reason in its JSON, and is tried
again.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
from tqdm import tqdm

from dila.baselines.presets import BASELINES
from dila.data import Clips, Corpus, collate_clips, digest, open_corpus, split_episodes
from dila.data.pool import pool
from dila.errors import DilaError, at_least
from dila.evaluate.factors import Factor, components
from dila.evaluate.first_look import measure_rollouts, measure_z_probe
from dila.evaluate.parameters import count
from dila.files import alone, write_json
from dila.imagine.world import World
from dila.interop.pretrained import load_pretrained, pick_device
from dila.protocols import Episode
from dila.recipes import ABLATION, ABLATIONS, BASELINE, recipe
from dila.recipes.command import command, plain
from dila.recipes.results import place, read_result, slug, spelled, table
from dila.train.begin import begin
from dila.train.learner import Learner
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.material import default_cache, gather, open_data, resolve
from dila.train.run import Run
from dila.version import commit, version
from dila.vision import FeatureCache

DILA = "dila"
Job = tuple[str, int]
"""Name and seed of a run."""

_BASELINES = tuple(f"{BASELINE}:{name}" for name in BASELINES)


def _ablations(*names: str) -> tuple[str, ...]:
    return tuple(f"{ABLATION}:{name}" for name in names)


GROUPS = {
    "table1": (DILA, *_BASELINES, *_ablations("no-content")),
    "table2": (DILA, *_ablations("no-content", "discrete", "gaussian")),
    "widths": (DILA, *_ablations(*(name for name in ABLATIONS if name.startswith("z-")), "no-bottleneck")),
    "losses": (DILA, *_ablations(*(name for name in ABLATIONS if name.endswith("-loss")))),
    "figure5": (DILA, *_ablations("no-action")),
    "all": (DILA, *_BASELINES, *_ablations(*ABLATIONS)),
}
"""Names for several: the paper's tables 1 and 2 and figure 5; what the sceptic asks, widths of z up to none; each loss
off; everything. An ablation that leaves this size's recipe as it is, is DiLA itself and is not in them."""

NAMES = ("table1", "table2")
_CHOICE = f"choose dila, baseline:NAME, ablation:NAME or of {', '.join(GROUPS)}"

AGENT = ("agent_x", "agent_y")
LOSS_CLIPS = 64
"""Held-out clips that losses are told of."""

_BASE = {"tiny": "tiny_pusht", "small": "small"}


@dataclass(frozen=True)
class Settings:
    """What all runs of a comparison share.

    Args:
        data: the corpus.
        out: folder of runs and results.
        names: ``dila``, ``baseline:NAME``, ``ablation:NAME``, or a group: table1, table2, widths, losses, figure5, all.
        seeds: how many each, from 0.
        size: of the models, and so whose recipe: tiny or small.
        steps: optimiser steps of each run, its stages shortened alike; the recipe's when None.
        batch: clips of an optimiser step; the recipe's when None.
        parallel: runs at once, on the one device.
        cache_dir: of features, see `dila.train.loop.train`.
        device: auto, cpu, cuda or mps.
        graph: the field of a run, for a GPU.
        commit: of the source, where there is no git to ask.
        probed: components of the column ``state`` whose change the probe reads off z. Data without the agent that is
            probed by default have no probe.
    """

    data: str
    out: Path = Path("runs/compare")
    names: tuple[str, ...] = NAMES
    seeds: int = 5
    size: Literal["tiny", "small"] = "tiny"
    steps: int | None = None
    batch: int | None = None
    parallel: int = 1
    cache_dir: Path | None = None
    device: str = "auto"
    graph: bool = False
    commit: str | None = None
    probed: tuple[str, ...] = AGENT

    def __post_init__(self):
        at_least(1, seeds=self.seeds, parallel=self.parallel)


def compare(settings: Settings) -> list[dict[str, Any]]:
    """Train and measure all that is not there yet; gives every run's result, printed as a table.

    Raises:
        DilaError: an unknown name, results of other settings in ``out``, data without what is to be probed, or a
            run that another process works on.
        SystemExit: stopped by a signal, saved.
    """
    jobs = [(name, seed) for seed in range(settings.seeds) for name in spelled_out(settings)]
    runs = {job: run_of(settings, *job) for job in jobs}
    stored = {job: _stored(settings, *job, runs[job]) for job in jobs}
    contents = digest(open_corpus(settings.data))
    _check_contents(settings, stored, contents)
    left = [job for job, told in stored.items() if told is None or "failed" in told]
    if left:
        _prepare(settings, runs[left[0]])
    if settings.parallel == 1:
        for job in tqdm(left, desc="comparison", unit="run"):
            _told(one(settings, *job, contents), job)
    elif left:
        with pool(settings.parallel, max(1, (os.cpu_count() or 1) // settings.parallel)) as many:
            started = {many.submit(one, settings, *job, contents): job for job in left}
            for done in tqdm(as_completed(started), desc="comparison", total=len(left), unit="run"):
                _told(done.result(), started[done])
    results = [result for job in jobs if (result := _stored(settings, *job, runs[job])) is not None]
    print(table(results))
    return results


def spelled_out(settings: Settings) -> tuple[str, ...]:
    """The names with each group's members in its place, every one once.

    Raises:
        DilaError: no name, one that stands for nothing, or an ablation, named by itself, that changes nothing.
    """
    names: list[str] = []
    if not settings.names:
        raise DilaError(f"--names is empty; {_CHOICE}")
    for name in settings.names:
        if name in GROUPS:
            names += [member for member in GROUPS[name] if _is_its_own(settings, member)]
        else:
            run_of(settings, name, 0)
            names.append(name)
    return tuple(dict.fromkeys(names))


def _is_its_own(settings: Settings, name: str) -> bool:
    """Not an ablation that leaves the recipe of this size as it is."""
    kind, _, change = name.partition(":")
    run = recipe(_BASE[settings.size])
    return kind != ABLATION or ABLATIONS[change](run) != run


def run_of(settings: Settings, name: str, seed: int) -> Run:
    """The run with this name and seed at the size and length of the comparison.

    It has no decoder and no guard: a run whose latents die is a result as well.
    """
    base = _BASE[settings.size]
    named = {DILA: base, BASELINE: f"{name}@{settings.size}", ABLATION: f"{name}@{base}"}
    kind = name.partition(":")[0]
    if kind not in named:
        raise DilaError(f"names: there is no {name!r}; {_CHOICE}")
    run = recipe(named[kind])
    run = run if settings.steps is None else shortened(run, settings.steps)
    return replace(
        run,
        name=name,
        seed=seed,
        batch=run.batch if settings.batch is None else settings.batch,
        decoder=None,
        guard=None,
        trackers=(),
        keep=1,
        graph=settings.graph,
        evaluate_every=run.steps,
        log_every=20,
    )


def shortened(run: Run, steps: int) -> Run:
    """The run in so many steps, each stage's share kept; warm-up is a tenth of it at most.

    Raises:
        DilaError: fewer steps than stages.
    """
    if steps < len(run.stages):
        raise DilaError(f"steps = {steps} must be at least {len(run.stages)}, one for each stage of {run.name}")
    ends = [round(steps * sum(s.steps for s in run.stages[: i + 1]) / run.steps) for i in range(len(run.stages))]
    ends = [max(end, i + 1) for i, end in enumerate(ends)]
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    stages = tuple(replace(stage, steps=max(1, count)) for stage, count in zip(run.stages, lengths, strict=True))
    first = replace(stages[0], steps=steps - sum(stage.steps for stage in stages[1:]))
    warmup = min(run.optimiser.warmup, steps // 10)
    return replace(run, stages=(first, *stages[1:]), optimiser=replace(run.optimiser, warmup=warmup))


def one(settings: Settings, name: str, seed: int, contents: str) -> dict[str, Any]:
    """Train and measure one run, and write its JSON; `contents` is the digest of the data."""
    folder = settings.out / slug(name, seed)
    with alone(folder):
        told = _one(settings, name, seed, contents, folder)
        write_json(place(settings.out, name, seed), told)
    return told


def _one(settings: Settings, name: str, seed: int, contents: str, folder: Path) -> dict[str, Any]:
    run = run_of(settings, name, seed)
    told: dict[str, Any] = {
        "name": name,
        "seed": seed,
        **_shared(settings, run),
        "contents": contents,
        "dila_version": version(),
        "commit": settings.commit or commit(),
        "device": _device_name(settings.device),
    }
    began = time.monotonic()
    try:
        # Beside each other, bars would write into each other's lines.
        shown = settings.parallel == 1
        checkpoint = train(run, settings.data, folder, cache_dir=settings.cache_dir, progress=shown)
        told |= {"seconds_training": _seconds(folder, run.batch), "held_out": _evaluation(folder)}
        if shown:
            tqdm.write(f"{name} seed {seed}: measuring rollouts and probe on held-out episodes")
        told |= measure(settings, run, checkpoint)
    except DilaError as error:
        told["failed"] = str(error)
    except Exception as error:  # of whatever kind: hours of other runs hang on this one
        told["failed"] = f"{type(error).__name__}: {error}"
    told["seconds"] = round(time.monotonic() - began, 1)
    return told


def measure(settings: Settings, run: Run, checkpoint: Path) -> dict[str, Any]:
    """Size; losses, rollout error over copying by horizon, and the probe, all on held-out episodes."""
    pretrained = load_pretrained(checkpoint, device=settings.device)
    world = World(*pretrained, bf16=run.precision == "bf16")
    told: dict[str, Any] = {"parameters": count(pretrained.model.config), "probed": list(settings.probed)}
    corpus = open_corpus(settings.data)
    cache = FeatureCache(
        pretrained.encoder, settings.cache_dir or default_cache(), pretrained.encoder.statistics, progress=False
    )
    training, held = (cache.episodes(part) for part in split_episodes(corpus, run.clips.held_out))
    told["losses"] = _losses(world, run, held)
    if not pretrained.model.acts:
        return told
    told["rollout"] = asdict(measure_rollouts(world, held))
    told["rollout_error_vs_copy_last"] = told["rollout"]["pooled"]
    if factors := _probed(settings, corpus):
        probed = measure_z_probe(world, training, held, factors)
        told |= {"probe_r2": probed.r2, "probe": probed.to_json()}
    return told


def _prepare(settings: Settings, run: Run) -> None:
    """Say what cannot be probed before hours pass, and encode the data once, before several runs want it at a time."""
    corpora = open_data(run, settings.data)
    for corpus in corpora.values():
        if settings.probed and not _probed(settings, corpus):
            print(f"no probe: the state of {settings.data} has no {' and '.join(AGENT)}; --probed names others")
    encoder, _ = begin(run)
    encoder.to(pick_device(settings.device))
    gather(resolve(run, encoder, corpora), encoder, corpora, Path(settings.cache_dir or default_cache()))


def _probed(settings: Settings, corpus: Corpus) -> list[Factor]:
    """The components of the state that are probed; none where the data have not what is probed by default.

    Raises:
        DilaError: the data have not what was asked for.
    """
    names = corpus.names.get("state", ())
    if missing := [name for name in settings.probed if name not in names]:
        if settings.probed == AGENT:
            return []
        have = f"choose of {', '.join(names)}" if names else "it names none: leave --probed empty for no probe"
        raise DilaError(f"--probed {' '.join(missing)}: there is no such component in the state of the data; {have}")
    return components("state", settings.probed, len(names), corpus.names) if settings.probed else []


def _shared(settings: Settings, run: Run) -> dict[str, Any]:
    """What the results of all runs of a comparison have in common, failed ones as well."""
    return {
        "data": Path(settings.data).name,
        "size": settings.size,
        "steps": run.steps,
        "clips": run.steps * run.batch,
    }


def _stored(settings: Settings, name: str, seed: int, run: Run) -> dict[str, Any] | None:
    """What a run scored, or why it failed; None of one that never came so far.

    Raises:
        DilaError: what is there is damaged, or of a run of other settings.
    """
    path = place(settings.out, name, seed)
    if not path.is_file():
        return None
    told = read_result(path)
    wanted = _shared(settings, run) | {"probed": list(settings.probed)}
    for key, value in wanted.items():
        if told.get(key, value) != value:
            one, other = spelled([told[key]]), spelled([value])
            raise DilaError(f"{path} is of a run with {key} = {one}, not {other}; choose another out")
    return told


def _check_contents(settings: Settings, stored: Mapping[Job, dict[str, Any] | None], contents: str) -> None:
    """Whether results are of data with these contents, and not only of this name; those of before do not say.

    Raises:
        DilaError: one is of others.
    """
    told = {job: result for job, result in stored.items() if result is not None}
    for job, result in told.items():
        if result.get("contents", contents) != contents:
            raise DilaError(
                f"{place(settings.out, *job)} is of other data than {settings.data} now holds, of the same name; "
                "choose another out"
            )
    if before := sum("contents" not in result for result in told.values()):
        print(f"{before} results of an older dila do not say what their data held: they are known by its name alone")


def _told(result: dict[str, Any], job: Job) -> None:
    tqdm.write(f"{job[0]} seed {job[1]}: {result.get('failed', 'done')}, {result['seconds']:.0f} s")
    sys.stdout.flush()


def _seconds(folder: Path, batch: int) -> float:
    """Time in optimiser steps, over all the sittings that a run took."""
    logged, seconds = 0, 0.0
    for record in read_log(folder):
        if record["kind"] == "train":
            seconds += (record["step"] - logged) * batch / record["clips_per_second"]
            logged = record["step"]
    return round(seconds, 1)


@torch.no_grad()
def _losses(world: World, run: Run, episodes: Sequence[Episode]) -> dict[str, float]:
    """Each term of the last stage's objective on held-out clips, before its weight."""
    clips = Clips(episodes, run.clips.frames, run.clips.stride, hop=run.clips.frames)
    learner = Learner(world.model, run.stages[-1].objective, run.precision).eval()  # type: ignore[arg-type]
    seen = []
    for start in range(0, min(len(clips), LOSS_CLIPS), run.batch):
        few = range(start, min(len(clips), start + run.batch))
        seen.append(learner(collate_clips([clips[i] for i in few]).frames.to(world.device)).losses)
    return {name: fmean(float(losses[name]) for losses in seen) for name in seen[0]}


def _evaluation(folder: Path) -> dict[str, Any]:
    """The last evaluation of the run itself: held-out errors, liveliness of z."""
    last = [record for record in read_log(folder) if record["kind"] == "evaluation"][-1]
    return {key: value for key, value in last.items() if key != "kind"}


def _device_name(device: str) -> str:
    kind = pick_device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run.

    Raises:
        DilaError: as `compare`, or some runs failed.
    """
    import tyro

    results = compare(tyro.cli(Settings, prog="dila compare", description=plain(__doc__), args=arguments))
    if failed := sum("failed" in result for result in results):
        raise DilaError(f"{failed} of {len(results)} runs failed, see above; the same command tries them again")


if __name__ == "__main__":
    sys.exit(command("compare", main))
