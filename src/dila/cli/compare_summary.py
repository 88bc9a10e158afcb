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
    """What `dila compare` found: scores with intervals over seeds, paired tests by seed, the paper's claims, pictures.

    Runs that `runs/evaluate.sh` judged are compared by what they draw as well: SSIM and perceptual distance of rollouts
    and of cycle transfer (tables 1 and 2).

    A page that is there already keeps its text: only what stands between the two lines of comment that this verb
    writes is written anew.

    Args:
        folders: of comparisons, one a data set, or their folders of JSON.
        out: .md to write; pictures go to the folder ``pictures`` beside it, all numbers to a .json of its name.
        against: the model that the others are tested against.
        json: print the numbers as JSON.
    """
    from dila.errors import DilaError
    from dila.recipes.summary import summarise, write_summary

    if out.suffix != ".md":
        raise DilaError(f"--out {out} must end in .md")
    if not folders:
        raise DilaError("folders names nothing to summarise; give folders of dila compare")
    summaries = [summarise(folder, against) for folder in folders]
    written = write_summary(out, summaries)
    if json:
        print_json([each.to_json() for each in summaries])
        return
    print("wrote " + ", ".join(map(str, written)))
