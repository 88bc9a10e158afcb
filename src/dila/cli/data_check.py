"""``dila data check``."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from tyro.conf import Positional

from dila.cli.arguments import Camera, Data, Fps, print_json

if TYPE_CHECKING:
    from dila.data.check import Finding, Report

LISTED = 10
"""Maximum number of items printed per finding; JSON has all."""


def check(
    path: Positional[Data],
    json: bool = False,
    frames: int = 64,
    fps: Fps = None,
    camera: Camera = None,
    strict: bool = False,
) -> int:
    """Describe a corpus and report its problems. Exit code 0: fine; 1: errors; 2: it cannot be opened at all.

    Errors: unreadable files or tables, no readable episode, time stamps out of order. Warnings: static episodes,
    repeated frames, gaps in time, copies of a recording, mixed rates or sizes, columns that some episodes lack, that
    differ in width or that are not finite, episodes of one frame, rows of episodes that do not exist, folders that look
    like cameras of one recording, and images, tables, training runs and media of other types that are ignored.

    Args:
        path: a video, a folder of frames, a data set, or a folder with any number of them at any depth.
        json: print everything as one JSON document.
        frames: maximum number of frames read from each episode, in groups spread over it; 0 reads all.
        strict: exit with 1 for warnings too.
    """
    from dila.data.check import check as look

    report = look(path, fps, frames, camera)
    if json:
        print_json(asdict(report))
    else:
        print(_text(report))
    return int(bool(report.errors or (strict and report.warnings)))


def _text(report: "Report") -> str:
    columns = [_column(name, told, report.episodes) for name, told in report.columns.items()]
    lines = {
        "what": ", ".join(f"{count} {name}" for name, count in report.readers.items()),
        "episodes": f"{report.episodes}",
        "frames": f"{report.frames}, {report.looked_at} of them checked",
        "hours": f"{report.hours:.3g}",
        "fps": _counted(report.fps),
        "size": _counted(report.sizes),
        "cameras": _counted(report.cameras),
        "columns": "; ".join(columns),
        "on disk": f"{report.bytes / 1e6:.1f} MB",
    }
    told = [report.path, *(f"  {name:<16} {line}" for name, line in lines.items() if line)]
    for word, findings in (("ERROR", report.errors), ("warning", report.warnings)):
        for finding in findings:
            told += _finding(word, finding)
    kinds = "kind" if len(report.errors) == 1 else "kinds"
    verdict = f"{len(report.errors)} {kinds} of errors, {len(report.warnings)} of warnings"
    return "\n".join([*told, verdict if report.errors or report.warnings else "no problems found"])


def _column(name: str, told: dict, episodes: int) -> str:
    named = f" ({', '.join(told['names'])})" if told["names"] else ""
    has = told["episodes"]
    where = "" if has == episodes else f" in {has} episode{'s' * (has != 1)}"
    return f"{name}: {told['numbers']}{named}{where}"


def _counted(found: dict[str, int]) -> str:
    return next(iter(found)) if len(found) == 1 else ", ".join(f"{name} ({count})" for name, count in found.items())


def _finding(word: str, finding: "Finding") -> list[str]:
    more = len(finding.items) - LISTED
    items = [f"  {item}" for item in finding.items[:LISTED]]
    return [f"{word}: {finding.sentence}", *items, *([f"  and {more} more"] if more > 0 else [])]
