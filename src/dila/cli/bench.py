"""``dila bench``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from dila.cli.arguments import Device
from dila.errors import DilaError, at_least

if TYPE_CHECKING:
    from dila.evaluate.profiling import Profile

_HEAD = ("work", "preset", "precision", "batch", "frames", "candidates", "seconds", "TFLOP", "of peak", "GiB")


def bench(
    presets: Positional[tuple[str, ...]] = ("tiny", "small", "base"),
    works: tuple[str, ...] = ("train", "train_rollout", "rollout", "plan", "label"),
    precision: Literal["bf16", "fp32"] = "bf16",
    batch: int = 1,
    frames: int = 8,
    horizon: int = 10,
    candidates: int = 64,
    growth: bool = False,
    recompute: bool = False,
    compiled: bool = False,
    graph: bool = False,
    profile: bool = False,
    repeats: int = 3,
    device: Device = "auto",
    json: Path | None = None,
) -> None:
    """Measure what training, rollouts, plans and labels cost here, each in a separate process.

    Each row gives the seconds of the fastest repeat, the operations, their rate as a share of that of a large matrix
    product on this machine, and the peak memory of the process (on CUDA, of the device); the last row gives the speed
    of reading video. Nothing else should be running. benchmarks/plot.py plots growth.

    Args:
        presets: sizes of the model.
        works: any of train, train_rollout, rollout, plan, label.
        precision: bf16 uses autocast.
        batch: number of clips.
        frames: frames per clip; frames imagined in a rollout.
        horizon: planning horizon, in frames.
        candidates: candidates per plan.
        growth: measure each work at several sizes as well: batch, frames, candidates of a plan.
        recompute: gradient checkpointing in training, like the field of a run.
        compiled: compile layers with torch.compile.
        graph: on CUDA, run each work as a CUDA graph; profiles are taken without it.
        profile: report where the time goes, by part of the model and by operation.
        repeats: timed repetitions.
        json: JSON file to write the same numbers to.
    """
    from dila.evaluate.profiling import profile_apart
    from dila.evaluate.speed import KINDS, Work, describe, grown, matmul_peak, measure_apart, measure_reading
    from dila.files import write_json
    from dila.interop.pretrained import pick_device
    from dila.model.presets import preset

    at_least(1, batch=batch, horizon=horizon, candidates=candidates, repeats=repeats)
    at_least(2, frames=frames)
    if unknown := set(works) - set(KINDS):
        raise DilaError(f"--works: there is no {', '.join(sorted(unknown))}; choose from {', '.join(KINDS)}")
    for name in presets:
        preset(name)
    where = pick_device(device)
    reading = measure_reading(where, repeats)
    print(f"data: {reading.decoded:.0f} frames per second decoded, {reading.encoded:.0f} encoded (128 px, one process)")
    peak = matmul_peak(precision, where)
    print(f"a large matrix product: {peak:.2f} TFLOP/s in {precision} on {where}\n")
    print(_row(_HEAD))
    rows = []
    told = {"device": str(where), "matmul_tflop_per_second": peak, "rows": rows, "data": reading._asdict()}
    for name in presets:
        for kind in works:
            length = horizon if kind == "plan" else frames
            work = Work(kind, name, precision, 1 if kind == "plan" else batch, length, candidates)  # type: ignore[arg-type]
            work = replace(work, recompute=recompute, compiled=compiled, graph=graph)
            sizes = [each for along in grown(work).values() for each in along] if growth else [work]
            for each in dict.fromkeys(sizes):
                rows.append(describe(each, measure_apart(each, where, repeats), peak))
                print(_row(_cells(rows[-1])), flush=True)
                if profile:
                    rows[-1] |= _profiled(profile_apart(each, where))
                if json is not None:  # after each, so that results are kept if the next one fails
                    json.parent.mkdir(parents=True, exist_ok=True)
                    write_json(json, told)


def _profiled(seen: "Profile") -> dict[str, list[dict]]:
    """Print a profile below its row, and return it as JSON."""
    for title, lines in (("of the model", seen.parts), ("of operations", seen.operations)):
        print(f"  {title}")
        for name, calls, seconds, share in lines:
            print(f"    {name:<56}{calls:>7}{seconds:>10.4f} s{share:>7.1%}")
    return {name: [line._asdict() for line in lines] for name, lines in seen._asdict().items()}


def _cells(row: dict) -> tuple[str, ...]:
    return (
        row["kind"], row["preset"], row["precision"], str(row["batch"]), str(row["frames"]),
        str(row["candidates"]) if row["kind"] == "plan" else "", f"{row['seconds']:.3f}", f"{row['tflop']:.3f}",
        f"{row['share_of_matmul_peak']:.0%}", f"{row['peak_gib']:.2f}",
    )  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return f"{cells[0]:<14}{cells[1]:<8}" + "".join(f"{cell:>11}" for cell in cells[2:])
