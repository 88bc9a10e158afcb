"""Growth curves of what ``dila bench --growth --json FILE`` measured, as one picture.

    dila bench tiny small --growth --json benchmarks/results/growth.json
    python benchmarks/plot.py benchmarks/results/growth.json docs/pictures/growth.png

A panel for each work and each dimension that it grows in, a line a preset; both axes logarithmic, so that a slope of 1
is cost in proportion. Needs matplotlib (extra ``analysis``).
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

DIMENSIONS = ("batch", "frames", "candidates")
LOOKS = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"))


def curves(rows: list[dict]) -> dict[tuple[str, str], dict[str, list[tuple[int, float]]]]:
    """Points of each panel (work, dimension) by preset: rows that differ from the most common size in it alone."""
    panels: dict = {}
    for row in rows:
        alike = [r for r in rows if (r["kind"], r["preset"]) == (row["kind"], row["preset"])]
        usual = {d: max({r[d] for r in alike}, key=[r[d] for r in alike].count) for d in DIMENSIONS}
        for d in DIMENSIONS:
            if len({r[d] for r in alike}) > 1 and all(row[o] == usual[o] for o in DIMENSIONS if o != d):
                panels.setdefault((row["kind"], d), {}).setdefault(row["preset"], []).append((row[d], row["seconds"]))
    return panels


def main(source: str, target: str) -> None:
    """Draw the file's curves."""
    told = json.loads(Path(source).read_text(encoding="utf-8"))
    panels = curves(told["rows"])
    columns = 4
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(3.1 * columns, 2.6 * lines), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    presets = list(dict.fromkeys(row["preset"] for row in told["rows"]))
    for axis, ((kind, dimension), lines_of) in zip(axes.flat, panels.items(), strict=False):
        for preset, points in lines_of.items():
            sizes, seconds = zip(*sorted(points), strict=True)
            colour, mark = LOOKS[presets.index(preset) % 3]
            axis.plot(sizes, seconds, marker=mark, color=colour, label=preset, linewidth=1.6)
        axis.set(xscale="log", yscale="log", ylabel="seconds", title=kind.replace("_", ", "))
        axis.set_xlabel("frames ahead" if kind != "train" and dimension == "frames" else dimension)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        spread = [seconds for points in lines_of.values() for _, seconds in points]
        ticks = [t * 10.0**power for power in range(-4, 5) for t in (1, 3)]
        ticks = [tick for tick in ticks if 0.8 * min(spread) <= tick <= 1.25 * max(spread)]
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="upper left", ncols=len(presets), frameon=False)
    figure.suptitle(f"Cost as work grows, on {told['device']}: both axes logarithmic", fontsize=10)
    figure.tight_layout()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
