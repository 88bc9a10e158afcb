"""``dila isolate``."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import check_imagined, open_world, read, save_imagined


def isolate(
    model: Positional[str], video: Positional[Path], out: Path = Path("outputs/isolate.mp4"), device: str = "auto"
) -> None:
    """Freeze the structure of a clip, to see what content still moves.

    Args:
        model: folder of a trained model or of a run, or a Hub id.
        video: video file or folder of frames.
        out: .mp4 or .gif file to write; features and the frozen structure are written beside it as .safetensors.
        device: auto, cpu, cuda or mps.
    """
    check_imagined(out, video)
    world = open_world(model, device)
    still = world.isolate(video)
    e = world.features(video)
    left = (still.e[1:] - still.e[:-1]).square().mean() / (e[2:] - e[1:-1]).square().mean().clamp_min(1e-8)
    rows = {"true, drawn": world.draw(e[1:]), "structure frozen": world.draw(still.e)}
    save_imagined(out, still.e, rows, world.stride, s=still.s, motion_left=left)
    print(f"motion left, as a share of the clip's own: {left:.3f}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(isolate, "isolate", arguments)
