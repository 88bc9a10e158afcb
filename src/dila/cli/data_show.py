"""``dila data show``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Camera, Data, Fps


def show(
    path: Positional[Data],
    out: Path = Path("outputs/corpus.png"),
    episodes: int = 8,
    moments: int = 8,
    size: int = 128,
    fps: Fps = None,
    camera: Camera = None,
) -> None:
    """Draw a contact sheet of episodes spread evenly over a corpus, with their names and times.

    Args:
        path: a video, a folder of frames, a data set, or a folder with any number of them at any depth.
        out: .png file to write.
        episodes: maximum number of rows.
        moments: pictures per episode.
        size: longer side of a picture, in pixels.
    """
    from dila.evaluate.corpus_sheet import draw_corpus

    shown = draw_corpus(path, out, episodes, moments, size, fps, camera)
    print(f"wrote {shown.path}: {len(shown.episodes)} episodes, {len(shown.skipped)} skipped")
    for name in shown.episodes:
        print(f"  {name}")
    for name, reason in shown.skipped.items():
        print(f"  skipped {name}: {reason}")
