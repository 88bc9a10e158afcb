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
    o_structure, o_content = world.pictures(structure)[1:], world.pictures(content, limit=1)
    rows = {
        "structure from": o_structure,
        "content from": o_content.expand(len(bound.e), -1, -1, -1),
        "rebound": world.draw(bound.e, o_structure),
    }
    save_imagined(out, bound.e, rows, world.stride, s=bound.s)
