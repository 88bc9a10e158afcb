"""``dila eval pin``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Camera, Data, Fps


def pin(
    data: Positional[Data],
    out: Path = Path("outputs/pins.json"),
    stride: float = 0.2,
    frames: int = 16,
    clips: int = 64,
    held_out: float = 0.1,
    fps: Fps = None,
    camera: Camera = None,
) -> None:
    """Fix the clips that models are evaluated on: spread over the held-out episodes, with fingerprints.

    Args:
        data: a corpus.
        out: .json file to write.
        stride: seconds between frames, as for the models.
        frames: frames per clip; shortened to what the data allow.
        clips: number of clips.
        held_out: share of the episodes held out, as in training.
    """
    from dila.data import open_corpus, split_episodes
    from dila.errors import DilaError, at_least
    from dila.evaluate.pins import make_pins, write_pins

    if not 0 < stride < float("inf"):
        raise DilaError(f"--stride {stride:g} must be above 0 seconds")
    at_least(2, frames=frames)
    at_least(1, clips=clips)
    _, held = split_episodes(open_corpus(data, fps, camera), held_out)
    if not held:
        raise DilaError(f"{data}: no episode is held out; give more than one recording, and --held-out above 0")
    pins = make_pins(held, stride, frames, clips)
    write_pins(out, pins)
    episodes = f"{len(pins.fingerprints)} of {len(held)} held-out episodes"
    print(f"pinned {len(pins.clips)} clips of {pins.frames} frames in {episodes}: {out}, hash {pins.hash}")
