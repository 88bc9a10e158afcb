"""Self-contained HTML page of numbers, tables, pictures and videos, all embedded in the file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from dila.files import write_text

_TYPES = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2430; background: #fff; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: .3rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
p { max-width: 46rem } .note { color: #5a6475; font-size: .92rem }
table { border-collapse: collapse; margin: .8rem 0; display: block; overflow-x: auto }
td:first-child, th:first-child { position: sticky; left: 0; background: #fff }
td, th { padding: .3rem .9rem; text-align: left;
       border-bottom: 1px solid #e3e7ee } th { font-weight: 600; color: #5a6475 } td + td { font-variant-numeric:
       tabular-nums } figure { margin: 1rem 0 } figcaption { color: #5a6475; font-size: .92rem; margin-top: .3rem }
img, video { max-width: 100%; border: 1px solid #e3e7ee; border-radius: 4px }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.2rem 0 } .tile { border: 1px solid #e3e7ee;
       border-radius: 8px; padding: .8rem 1.2rem; min-width: 12rem } .tile b { display: block; font-size: 1.9rem }
.tile span { color: #5a6475; font-size: .92rem }
"""


@dataclass(frozen=True)
class Tile:
    """A headline number."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """Rows below a header."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A picture (.png, .gif) or a video (.mp4)."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with a text, and tables or figures."""

    title: str
    text: str
    shown: Sequence[Table | Figure] = ()


def write_page(path: Path, title: str, subtitle: str, tiles: Sequence[Tile], sections: Sequence[Section]) -> None:
    """Write the page atomically. Pictures and videos are embedded, so the file can be shared alone.

    Raises:
        DilaError: the file cannot be written.
    """
    body = [f"<h1>{escape(title)}</h1><p class=note>{escape(subtitle)}</p>"]
    body.append("<div class=tiles>" + "".join(map(_tile, tiles)) + "</div>")
    for section in sections:
        body.append(f"<h2>{escape(section.title)}</h2><p>{escape(section.text)}</p>")
        body.extend(map(_shown, section.shown))
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title>"
    page = f"<!doctype html><html lang=en><head>{head}<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    write_text(path, page)


def _tile(tile: Tile) -> str:
    return f"<div class=tile><b>{escape(tile.value)}</b><span>{escape(tile.meaning)}</span></div>"


def _shown(shown: Table | Figure) -> str:
    if isinstance(shown, Table):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in shown.head)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in shown.rows)
        return f"<table><tr>{head}</tr>{rows}</table>"
    kind = _TYPES[shown.path.suffix]
    source = f"data:{kind};base64,{base64.b64encode(shown.path.read_bytes()).decode()}"
    if kind.startswith("video"):
        element = f"<video src='{source}' autoplay loop muted playsinline controls></video>"
    else:
        element = f"<img src='{source}' alt='{escape(shown.caption)}'>"
    return f"<figure>{element}<figcaption>{escape(shown.caption)}</figcaption></figure>"
