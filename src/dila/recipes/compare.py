"""DiLA, its ablations and the baselines on equal terms: the same data, features, clips and seeds, one JSON per run.

::

    dila compare --data recordings/pusht --out runs/compare --parallel 2

    out/results/baseline-lapa-seed0.json    scores of a run, see `Settings` and `measure`
    out/baseline-lapa-seed0/                the run

Finished runs are skipped and interrupted runs resume. The JSON of a failed run states the reason; the run is tried
again.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
from tqdm import tqdm

from dila.configs import to_json
from dila.data import Clips, Corpus, collate_clips, digest, open_corpus
from dila.data.pool import pool
from dila.errors import DilaError, in_words
from dila.evaluate.factors import Factor, components
from dila.evaluate.first_look import measure_rollouts, measure_z_probe, split_features
from dila.evaluate.parameters import count
from dila.files import alone, write_json
from dila.imagine.world import World
from dila.interop.pretrained import load_pretrained, pick_device
from dila.protocols import Episode
from dila.recipes.command import command, encoder_flags, plain, value_of
from dila.recipes.compared import AGENT, FOLLOWS, Settings, encoder_of, run_of, seen_by, spelled_out
from dila.recipes.results import place, read_result, slug, spelled, table
from dila.train.begin import FREE, begin, changed
from dila.train.learner import Learner
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.material import default_cache, gather, open_data, resolve
from dila.train.run import Run
from dila.version import commit, version

Job = tuple[str, int]
"""Name and seed of a run."""
LOSS_CLIPS = 64
"""Number of held-out clips that losses are computed on."""
_FREE = FREE | {"name", "seed", "graph", "encoder", "start"}
"""Fields that may differ between a stored result and a new run; the encoder is compared as `seen_by` writes it, and
`start` is a folder of the comparison."""


def compare(settings: Settings) -> list[dict[str, Any]]:
    """Train and evaluate all runs that are not finished; prints a table and returns the results of all runs.

    Raises:
        DilaError: a name is unknown, ``out`` has results of other settings, the data lacks a probed component, or
            another process works on a run.
        SystemExit: stopped by a signal, after saving.
    """
    jobs = [(name, seed) for seed in range(settings.seeds) for name in spelled_out(settings)]
    runs = {job: run_of(settings, *job) for job in jobs}
    stored = {job: _stored(settings, *job, runs[job]) for job in jobs}
    contents = digest(_open(settings))
    for job, told in stored.items():
        if told and told.get("contents") != contents:
            raise DilaError(
                f"{place(settings.out, *job)} was made from other data than {settings.data} contains now; "
                "choose another out"
            )
    left = [job for job, told in stored.items() if told is None or "failed" in told]
    if left:
        _prepare(settings, runs[left[0]])
    if settings.parallel == 1:
        for job in tqdm(left, desc="comparison", unit="run"):
            _told(one(settings, runs[job], contents), job)
    else:
        for some in ([job for job in left if (job[0] in FOLLOWS) is late] for late in (False, True)):
            _at_once(settings, {job: runs[job] for job in some}, contents)
    results = [result for job in jobs if (result := _stored(settings, *job, runs[job])) is not None]
    print(table(results))
    return results


def _at_once(settings: Settings, runs: Mapping[Job, Run], contents: str) -> None:
    """Do `one` for each run, several at once."""
    if not runs:
        return
    with pool(settings.parallel, max(1, (os.cpu_count() or 1) // settings.parallel)) as many:
        started = {many.submit(one, settings, run, contents): job for job, run in runs.items()}
        for done in tqdm(as_completed(started), desc="comparison", total=len(runs), unit="run"):
            _told(done.result(), started[done])


def one(settings: Settings, run: Run, contents: str) -> dict[str, Any]:
    """Train and evaluate one run, and write its JSON; `contents` is the digest of the data.

    Workers receive the run instead of its name, because unpickling it imports the plugin that may define it.
    """
    folder = settings.out / slug(run.name, run.seed)
    with alone(folder):
        told = _one(settings, run, contents, folder)
        write_json(place(settings.out, run.name, run.seed), told)
    return told


def _one(settings: Settings, run: Run, contents: str, folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": run.name,
        "seed": run.seed,
        **_shared(settings, run),
        "run": to_json(run),
        "contents": contents,
        "dila_version": version(),
        "commit": settings.commit or commit(),
        "device": _device_name(settings.device),
    }
    began = time.monotonic()
    try:
        # Progress bars of parallel runs would overwrite each other.
        shown = settings.parallel == 1
        checkpoint = train(run, settings.data, folder, cache_dir=settings.cache_dir, progress=shown)
        told |= {"seconds_training": _seconds(folder, run.batch), "held_out": _evaluation(folder)}
        if shown:
            tqdm.write(f"{run.name} seed {run.seed}: measuring rollouts and probe on held-out episodes")
        told |= measure(settings, run, checkpoint)
    except Exception as error:  # any failure: the other runs must go on
        told["failed"] = in_words(error)
    told["seconds"] = round(time.monotonic() - began, 1)
    return told


def measure(settings: Settings, run: Run, checkpoint: Path) -> dict[str, Any]:
    """Count parameters, and compute losses, rollout errors by horizon and the probe on held-out episodes."""
    pretrained = load_pretrained(checkpoint, device=settings.device)
    world = World(*pretrained, bf16=run.precision == "bf16")
    told: dict[str, Any] = {"parameters": count(pretrained.model.config), "probed": list(settings.probed)}
    corpus = _open(settings)
    training, held = split_features(world, corpus, run.clips.held_out, settings.cache_dir or default_cache())
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
    """Report early if there will be no probe, and encode the data once, before parallel runs need it."""
    corpora = open_data(run, settings.data)
    for corpus in corpora.values():
        if settings.probed and not _probed(settings, corpus):
            print(f"no probe: the state of {settings.data} has no {' and '.join(AGENT)}; name others with --probed")
    encoder, _ = begin(run)
    encoder.to(pick_device(settings.device))
    gather(resolve(run, encoder, corpora), encoder, corpora, Path(settings.cache_dir or default_cache()))


def _open(settings: Settings) -> Corpus:
    return open_corpus(settings.data, settings.fps, settings.camera)


def _probed(settings: Settings, corpus: Corpus) -> list[Factor]:
    """Components of the state to probe; empty if the data lacks the default components.

    Raises:
        DilaError: the data lacks a component named by ``--probed``.
    """
    names = corpus.names.get("state", ())
    if missing := [name for name in settings.probed if name not in names]:
        if settings.probed == AGENT:
            return []
        have = f"choose from {', '.join(names)}" if names else "it names none: leave --probed empty for no probe"
        raise DilaError(f"--probed {' '.join(missing)}: there is no such component in the state of the data; {have}")
    return components("state", settings.probed, len(names), corpus.names) if settings.probed else []


def _shared(settings: Settings, run: Run) -> dict[str, Any]:
    """Fields that the results of all runs of a comparison share, including failed ones."""
    return {
        "data": Path(settings.data).name,
        "size": settings.size,
        "steps": run.steps,
        "clips": run.steps * run.batch,
        **seen_by(run),
    }


def _stored(settings: Settings, name: str, seed: int, run: Run) -> dict[str, Any] | None:
    """Read the stored result of a run, which may be a failure; None if there is none.

    Raises:
        DilaError: the result is damaged, or was made with other settings.
    """
    path = place(settings.out, name, seed)
    if not path.is_file():
        return None
    told = read_result(path)
    wanted = _shared(settings, run) | ({} if "failed" in told else {"probed": list(settings.probed)})
    for key, value in wanted.items():
        if told.get(key) != value:
            one, other = spelled([told.get(key)]), spelled([value])
            raise DilaError(f"{path} was made with {key} = {one}, not {other}; choose another out")
    if "failed" not in told and "run" in told and (different := changed(told["run"], run, _FREE)):
        raise DilaError(f"{path} was made with {'; '.join(different)}; choose another out")
    return told


def _told(result: dict[str, Any], job: Job) -> None:
    tqdm.write(f"{job[0]} seed {job[1]}: {result.get('failed', 'done')}, {result['seconds']:.0f} s")
    sys.stdout.flush()


def _seconds(folder: Path, batch: int) -> float:
    """Total time of the optimiser steps of a run in seconds, including those before interruptions."""
    logged, seconds = 0, 0.0
    for record in read_log(folder):
        if record["kind"] == "train":
            seconds += (record["step"] - logged) * batch / record["clips_per_second"]
            logged = record["step"]
    return round(seconds, 1)


@torch.no_grad()
def _losses(world: World, run: Run, episodes: Sequence[Episode]) -> dict[str, float]:
    """Unweighted terms of the last stage's objective on held-out clips."""
    clips = Clips(episodes, run.clips.frames, run.clips.stride, hop=run.clips.frames)
    learner = Learner(world.model, run.stages[-1].objective, run.precision).eval()  # type: ignore[arg-type]
    seen = []
    for start in range(0, min(len(clips), LOSS_CLIPS), run.batch):
        few = range(start, min(len(clips), start + run.batch))
        seen.append(learner(collate_clips([clips[i] for i in few]).frames.to(world.device)).losses)
    return {name: fmean(float(losses[name]) for losses in seen) for name in seen[0]}


def _evaluation(folder: Path) -> dict[str, Any]:
    """Last evaluation in the run's log: held-out errors, scale and rank of z."""
    last = [record for record in read_log(folder) if record["kind"] == "evaluation"][-1]
    return {key: value for key, value in last.items() if key != "kind"}


def _device_name(device: str) -> str:
    kind = pick_device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run the comparison.

    Raises:
        DilaError: as `compare`, or a run failed.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    eyes = encoder_flags(arguments, encoder_of(value_of(arguments, "--size") or "tiny"))

    def settled(
        settings: Annotated[Settings, tyro.conf.arg(name="")],
        encoder: Annotated[Any, tyro.conf.arg(constructor=type(eyes))] = eyes,
    ) -> Settings:
        return replace(settings, encoder=to_json(encoder))

    results = compare(tyro.cli(settled, prog="dila compare", description=plain(__doc__), args=arguments))
    if failed := sum("failed" in result for result in results):
        raise DilaError(f"{failed} of {len(results)} runs failed, see above; run the same command to try them again")


if __name__ == "__main__":
    sys.exit(command("compare", main))
