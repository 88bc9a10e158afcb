"""The package against the straightforward way of doing the same, in one run: training, rollouts, planning.

    python benchmarks/speed.py [--preset base] [--threads 2] [--out benchmarks/results/cpu.json]

Every measurement is a process of its own. Prints JSON: a row a measurement, and `ratios` of plain to ours; `memory` is
ours to plain, with `recompute`, whose price in time is `train_bf16_recompute`. "The same" is checked in the run: each
row has the relative difference of its numbers from the plain ones in float32.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from dila.evaluate.speed import (
    Ready,
    Work,
    actions,
    make,
    matmul_peak,
    peak_gib,
    ready,
    timed,
)
from dila.imagine.rollout import rollout
from dila.train.objectives import Weights
from dila.train.run import Optimiser

CPU = torch.device("cpu")
TRAINING = ("train", "train_rollout")
SIZES = ("kind", "batch", "frames", "candidates")


def plain_ready(work: Work, model, e: torch.Tensor) -> Ready:
    """The work as the released code does it."""
    import plain

    model = plain.plain(model)
    if work.kind in TRAINING:
        return _plain_training(work, model, e)
    model.eval()
    z = actions(work, model, e)
    goal = torch.zeros(*model.config.grid, model.config.structure_dim)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return plain.plan_costs(model, e, z, goal) if work.kind == "plan" else rollout(model, e, z)

    return Ready(run, run)


def _plain_training(work: Work, model, e: torch.Tensor) -> Ready:
    import plain

    loss_of = plain.one_step_loss if work.kind == "train" else plain.rollout_loss
    optimiser = torch.optim.AdamW(model.parameters(), lr=Optimiser().lr, fused=False, foreach=False)

    def run() -> None:
        model.train()
        loss_of(model, e, Weights()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 6.0)
        optimiser.step()
        optimiser.zero_grad()

    def check() -> torch.Tensor:
        model.eval()
        loss = loss_of(model, e, Weights())
        loss.backward()
        norms = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        optimiser.zero_grad()
        return torch.stack([loss.detach(), torch.stack(norms).norm()])

    return Ready(run, check)


def child(work: Work, way: str, repeats: int, save: Path) -> None:
    """Measure one piece of work in this process and leave the result in a file."""
    built = (ready if way == "ours" else plain_ready)(work, *make(work, CPU))
    numbers = built.check()
    if work.kind in TRAINING:
        built.run()  # the first step makes the optimiser's moments
    seconds = min(timed(built.run, CPU) for _ in range(repeats))
    torch.save({"numbers": numbers, "seconds": seconds, "peak_gib": peak_gib(CPU)}, save)


def measured(work: Work, way: str, repeats: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        save = Path(folder) / "result.pt"
        told = ["--child", json.dumps(asdict(work)), "--way", way, "--repeats", str(repeats), "--save", str(save)]
        subprocess.run([sys.executable, __file__, *told], check=True, env=os.environ)
        return torch.load(save, weights_only=True)


def compare(work: Work, repeats: int) -> list[dict]:
    """The plain way in float32, ours in float32 and bfloat16, and a training step that saves memory."""
    work = replace(work, precision="fp32")
    variants = [work, replace(work, precision="bf16")]
    if work.kind in TRAINING:
        variants.append(replace(work, precision="bf16", recompute=True))
    theirs = measured(work, "plain", 1)
    rows = [{"way": "plain", **asdict(work), **theirs}]
    for variant in variants:
        ours = measured(variant, "ours", repeats)
        off = (ours["numbers"] - theirs["numbers"]).norm() / theirs["numbers"].norm()
        rows.append({"way": "ours", **asdict(variant), **ours, "relative_difference": float(off)})
    for row in rows:
        row.pop("numbers")
        print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def ratios(rows: list[dict]) -> dict[str, float]:
    """How many times faster, the worst case of each kind; of memory, ours over the plain way's."""

    def factors(kinds: tuple[str, ...], precision: str, recompute: bool, key: str = "seconds") -> list[float]:
        found = []
        for row in rows:
            asked = row["way"] == "ours" and (row["precision"], row["recompute"]) == (precision, recompute)
            if asked and row["kind"] in kinds:
                theirs = next(r for r in rows if r["way"] == "plain" and all(r[k] == row[k] for k in SIZES))
                found.append(theirs[key] / row[key])
        return found

    told = {
        "train_fp32": factors(("train",), "fp32", False),
        "train_bf16": factors(("train",), "bf16", False),
        "train_bf16_recompute": factors(("train",), "bf16", True),
        "train_rollout_fp32": factors(("train_rollout",), "fp32", False),
        "train_rollout_bf16": factors(("train_rollout",), "bf16", False),
        "train_rollout_bf16_recompute": factors(("train_rollout",), "bf16", True),
        "rollout_fp32": factors(("rollout",), "fp32", False),
        "rollout": factors(("rollout",), "bf16", False),
        "plan_fp32": factors(("plan",), "fp32", False),
        "plan": factors(("plan",), "bf16", False),
    }
    memory = factors(TRAINING, "bf16", True, "peak_gib")
    return {name: round(min(found), 2) for name, found in told.items() if found} | (
        {"memory": round(1 / min(memory), 3)} if memory else {}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="kinds of work; all when left out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child")
    parser.add_argument("--way")
    parser.add_argument("--save", type=Path)
    told = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(told.threads)
    torch.set_num_threads(told.threads)
    if told.child:
        child(Work(**json.loads(told.child)), told.way, told.repeats, told.save)
        return
    works = [
        Work("train", told.preset, frames=8),
        Work("train", told.preset, frames=16),
        Work("train_rollout", told.preset, frames=8),
        Work("rollout", told.preset, frames=15),
        Work("plan", told.preset, frames=10, candidates=16),
    ]
    rows = [row for work in works if not told.only or work.kind in told.only for row in compare(work, told.repeats)]
    result = {
        "date": date.today().isoformat(), "machine": platform.processor() or platform.machine(),
        "threads": told.threads, "torch": torch.__version__,
        "matmul_tflops": {name: matmul_peak(name, CPU) for name in ("fp32", "bf16")},
        "ratios": ratios(rows), "rows": rows,
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    if told.out:
        told.out.parent.mkdir(parents=True, exist_ok=True)
        told.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
