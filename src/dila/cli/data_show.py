"""``dila data show``."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Data, read


def show(
    path: Positional[Data],
    out: Path = Path("outputs/corpus.png"),
    episodes: int = 8,
    moments: int = 8,
    size: int = 128,
    fps: float | None = None,
    camera: str | None = None,
) -> None:
    """Draw a contact sheet of episodes that lie evenly over a corpus, with their names and times.

    Args:
        path: a video, a folder of frames, a data set, or a folder with any number of them at any depth.
        out: the .png to write.
        episodes: rows at most.
        moments: pictures of each.
        size: pixels of a picture's longer side.
        fps: frames a second, instead of what the files say.
        camera: of episodes that several cameras saw, this one alone, such as observation.images.front.
    """
    from dila.evaluate.corpus_sheet import draw_corpus

    shown = draw_corpus(path, out, episodes, moments, size, fps, camera)
    print(f"wrote {shown.path}: {len(shown.episodes)} episodes, {len(shown.skipped)} skipped")
    for name in shown.episodes:
        print(f"  {name}")
    for name, reason in shown.skipped.items():
        print(f"  skipped {name}: {reason}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(show, "data show", arguments)
