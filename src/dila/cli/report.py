"""``dila report``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import print_json


def report(
    runs: Positional[tuple[Path, ...]],
    out: Path = Path("outputs/report.html"),
    against: str | None = None,
    json: bool = False,
) -> None:
    """Compare evaluated runs on one self-contained page with tables, tests, curves, pictures and clips.

    Runs of the same name are seeds of one model, reported as mean and 95% interval. Models evaluated on the same pinned
    clips are tested in pairs (sign flips of episodes, Wilcoxon, Holm).

    Args:
        runs: results of dila eval or dila plan, or folders with an evaluation.json in them at any depth.
        out: .html file to write; the comparison is written beside it as .json.
        against: model that the page compares the others with; default the first. The JSON has all pairs.
        json: print the comparison as JSON.
    """
    from dataclasses import asdict

    from dila.errors import DilaError
    from dila.evaluate.compare import find_results
    from dila.evaluate.report import write_report
    from dila.files import write_json

    if out.suffix != ".html":
        raise DilaError(f"--out {out} must end in .html")
    if not runs:
        raise DilaError("runs is empty; give results of dila eval, or folders that contain them")
    rows = write_report(out, find_results(runs), against)
    told = [asdict(row) for row in rows]
    write_json(out.with_suffix(".json"), told)
    if json:
        print_json(told)
        return
    print(f"wrote {out} and {out.with_suffix('.json')}: {len(rows)} scores")
