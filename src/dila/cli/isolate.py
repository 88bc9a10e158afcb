"""``dila isolate``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Device, Model, check_imagined, open_world, save_imagined


def isolate(
    model: Positional[Model], video: Positional[Path], out: Path = Path("outputs/isolate.mp4"), device: Device = "auto"
) -> None:
    """Freeze the structure of a clip, to see what content still moves.

    Args:
        video: video file or folder of frames.
        out: .mp4 or .gif file to write; features and the frozen structure are written beside it as .safetensors.
    """
    check_imagined(out, video)
    world = open_world(model, device)
    still = world.isolate(video)
    e = world.features(video)
    left = (still.e[1:] - still.e[:-1]).square().mean() / (e[2:] - e[1:-1]).square().mean().clamp_min(1e-8)
    o = world.pictures(video)[1:]
    rows = {"true": o, "true, drawn": world.draw(e[1:], o), "structure frozen": world.draw(still.e, o)}
    save_imagined(out, still.e, rows, world.stride, s=still.s, motion_left=left)
    print(f"motion left, as a share of the clip's own: {left:.3f}")
