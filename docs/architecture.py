"""Draw docs/pictures/architecture.svg from a real model: every shape and count in it is read off one forward pass.

python docs/architecture.py            # preset tiny, as in the box
python docs/architecture.py base 16    # another preset, clips of 16 frames
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch

from dila.model.dila import DiLA
from dila.model.presets import preset

OUT = Path(__file__).parent / "pictures" / "architecture.svg"
WIDTH, HEIGHT = 860, 430
INK, SOFT, LINE = "#1d2430", "#5a6475", "#9aa5b5"
STRUCTURE, CONTENT, ACTION, PLAIN = "#dbe8fb", "#fde5d0", "#d9f2df", "#eef0f4"


class Box(NamedTuple):
    x: int
    y: int
    title: str
    lines: tuple[str, ...]
    colour: str
    width: int = 132

    @property
    def height(self) -> int:
        return 26 + 15 * len(self.lines)

    def at(self, side: str) -> tuple[float, float]:
        x, y = self.x + self.width / 2, self.y + self.height / 2
        return {"l": (self.x, y), "r": (self.x + self.width, y), "t": (x, self.y), "b": (x, self.y + self.height)}[side]


def main(name: str = "tiny", frames: int = 8) -> None:
    model = DiLA(preset(name)).eval()
    config = model.config
    e = torch.randn(1, frames, *config.grid, config.feature_dim)
    with torch.no_grad():
        seen, made = model.observe(e), model(e)
    count = {
        part: f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f}M" for part, module in model.named_children()
    }
    boxes = {
        "o": Box(10, 175, "frames o", (f"{frames} pictures",), PLAIN, 104),
        "e": Box(140, 167, "features e", (shape(e), "frozen encoder"), PLAIN, 126),
        "h": Box(292, 167, "backbone", ("h, looks back only", count["backbone"]), PLAIN, 126),
        "s": Box(450, 60, "structure s", (shape(seen.s), count["structure"]), STRUCTURE),
        "c": Box(450, 300, "content c, c_mem", (shape(seen.c_mem), f"Mamba, {count['memory']}"), CONTENT),
        "z": Box(616, 16, "IDM: z of s[k+1] - s[k]", (shape(made.z), count["idm"]), ACTION, 164),
        "f": Box(616, 118, "FDM: s[k] + f(s[k], z[k])", (f"s_hat {shape(made.s_hat)}", count["fdm"]), STRUCTURE, 164),
        "d": Box(
            626, 252, "fusion decoder", ("structure asks,", "content and e[0] answer", count["decoder"]), PLAIN, 144
        ),
        "p": Box(626, 366, "e_hat", (f"{shape(made.e_hat)}",), PLAIN, 144),
    }
    arrows = [
        "o r e l",
        "e r h l",
        "h r s l",
        "h r c l",
        "s r z l",
        "z b f t",
        "s r f l",
        "f b d t",
        "c r d l",
        "e b d l",
        "d b p t",
    ]
    total = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M"
    head = f"DiLA, preset {name}: {total} parameters, clips of {frames} frames"
    parts = [text(12, 24, head, 14, INK), *(arrow(boxes, *way.split()) for way in arrows), *map(drawn, boxes.values())]
    parts += [
        text(520, 264, "e[0]", 11, SOFT),
        text(12, HEIGHT - 58, "blue: where things are; orange: what they are; green: what changed", 12, SOFT),
        text(12, HEIGHT - 40, "shapes are T H W channels (K transitions for z, s_hat and e_hat)", 12, SOFT),
        text(
            12,
            HEIGHT - 22,
            "imagining: s_hat goes to the FDM again, e_hat to the content memory, under any z",
            12,
            SOFT,
        ),
    ]
    OUT.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif">'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs><rect width="100%" height="100%" fill="#fff"/>'
        + "".join(parts)
        + "</svg>\n",
        encoding="utf-8",
    )
    print(f"wrote {OUT}")


def shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape[1:]))


def text(x: float, y: float, words: str, size: int, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def drawn(box: Box) -> str:
    middle = box.x + box.width / 2
    lines = [text(middle, box.y + 34 + 15 * i, line, 11, SOFT, "middle") for i, line in enumerate(box.lines)]
    return (
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="7" fill="{box.colour}" '
        f'stroke="{LINE}"/>' + text(middle, box.y + 18, box.title, 12, INK, "middle") + "".join(lines)
    )


def arrow(boxes: dict[str, Box], start: str, leaves: str, end: str, enters: str) -> str:
    (x1, y1), (x2, y2) = boxes[start].at(leaves), boxes[end].at(enters)
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
