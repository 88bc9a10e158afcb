"""``dila transfer``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Device, Model, check_imagined, open_world, save_imagined


def transfer(
    model: Positional[Model],
    source: Positional[Path],
    target: Positional[Path],
    out: Path = Path("outputs/transfer.mp4"),
    context: int = 1,
    device: Device = "auto",
) -> None:
    """Replay the latent actions of one clip in the scene of another.

    Args:
        source: clip that provides the actions.
        target: clip whose first frame is the scene.
        out: .mp4 or .gif file to write; features and latent actions are written beside it as .safetensors.
        context: number of frames of the target that the model sees.
    """
    check_imagined(out, source, target)
    world = open_world(model, device)
    moved = world.transfer(source, target, context)
    o_source, scene = world.pictures(source)[1:], world.pictures(target, limit=context)[-1:]
    rows = {
        "source": o_source,
        "target's given frame": scene.expand(len(moved.e), -1, -1, -1),
        "source's actions in target": world.draw(moved.e, scene),
    }
    save_imagined(out, moved.e, rows, world.stride, z=moved.z)
