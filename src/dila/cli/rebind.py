"""``dila rebind``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Device, Model, check_imagined, open_world, save_imagined


def rebind(
    model: Positional[Model],
    structure: Positional[Path],
    content: Positional[Path],
    out: Path = Path("outputs/rebind.mp4"),
    device: Device = "auto",
) -> None:
    """Draw the structure of one clip with the content of another.

    Args:
        structure: clip that provides the structure (where things are).
        content: clip that provides the content (what things look like).
        out: .mp4 or .gif file to write; features and structure are written beside it as .safetensors.
    """
    check_imagined(out, structure, content)
    world = open_world(model, device)
    bound = world.rebind(structure, content)
    length = len(bound.e)
    first = world.draw(world.features(content, limit=1)).expand(length, -1, -1, -1)
    rows = {
        "structure of": world.draw(world.features(structure)[1:]),
        "content of": first,
        "rebound": world.draw(bound.e),
    }
    save_imagined(out, bound.e, rows, world.stride, s=bound.s)
