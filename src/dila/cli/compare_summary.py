"""``dila compare summary``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import print_json


def summary(
    folders: Positional[tuple[Path, ...]],
    out: Path = Path("outputs/comparison.md"),
    against: str = "dila",
    json: bool = False,
) -> None:
    """Summarise `dila compare`: scores with intervals over seeds, paired tests by seed, the paper's claims, pictures.

    Runs that `runs/evaluate.sh` evaluated are also compared in pixels: SSIM and perceptual distance of rollouts and of
    cycle transfer (tables 1 and 2).

    An existing page keeps its text: only the part between the two comment lines that this verb writes is replaced.

    Args:
        folders: folders of comparisons, one per data set, or their folders of JSON.
        out: .md file to write; pictures go to the folder ``pictures`` beside it, numbers to a .json of the same name.
        against: model that the others are compared with.
        json: print the numbers as JSON.
    """
    from dila.errors import DilaError
    from dila.recipes.summary import summarise, write_summary

    if out.suffix != ".md":
        raise DilaError(f"--out {out} must end in .md")
    if not folders:
        raise DilaError("folders is empty; give folders of dila compare")
    summaries = [summarise(folder, against) for folder in folders]
    written = write_summary(out, summaries)
    if json:
        print_json([each.to_json() for each in summaries])
        return
    print("wrote " + ", ".join(map(str, written)))
