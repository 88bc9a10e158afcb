"""``dila transfer``."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import check_imagined, open_world, read, save_imagined


def transfer(
    model: Positional[str],
    source: Positional[Path],
    target: Positional[Path],
    out: Path = Path("outputs/transfer.mp4"),
    context: int = 1,
    device: str = "auto",
) -> None:
    """Replay the latent actions of one clip in the scene of another.

    Args:
        model: folder of a trained model or of a run, or a Hub id.
        source: clip that provides the actions.
        target: clip whose first frame is the scene.
        out: .mp4 or .gif file to write; features and latent actions are written beside it as .safetensors.
        context: number of frames of the target that the model sees.
        device: auto, cpu, cuda or mps.
    """
    check_imagined(out, source, target)
    world = open_world(model, device)
    moved = world.transfer(source, target, context)
    e_source, e_target = world.features(source), world.features(target, limit=context)
    rows = {
        "source": world.draw(e_source[1:]),
        "target's first frame": world.draw(e_target[-1:]).expand(len(moved.e), -1, -1, -1),
        "source's actions in target": world.draw(moved.e),
    }
    save_imagined(out, moved.e, rows, world.stride, z=moved.z)


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(transfer, "transfer", arguments)
