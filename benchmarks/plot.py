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
COLOURS = ("#2a78d6", "#eb6834", "#1baf7a")


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
            axis.plot(sizes, seconds, "o-", color=COLOURS[presets.index(preset) % 3], label=preset, linewidth=1.6)
        axis.set(xscale="log", yscale="log", xlabel=dimension, title=kind.replace("_", ", "))
        axis.set_xticks(sizes, [str(size) for size in sizes])
        spread = [seconds for points in lines_of.values() for _, seconds in points]
        axis.set_yticks([min(spread), max(spread)], [f"{min(spread):.2g}", f"{max(spread):.2g}"])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    for row in axes:
        row[0].set_ylabel("seconds")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="upper left", ncols=len(presets), frameon=False)
    figure.suptitle(f"Cost as work grows, on {told['device']}: both axes logarithmic", fontsize=10)
    figure.tight_layout()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
