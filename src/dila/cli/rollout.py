"""``dila rollout``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Device, Model, check_imagined, open_world, save_imagined


def rollout(
    model: Positional[Model],
    video: Positional[Path],
    out: Path = Path("outputs/rollout.mp4"),
    context: int = 1,
    steps: int | None = None,
    device: Device = "auto",
) -> None:
    """Imagine the future of a clip under its own latent actions, next to the true future.

    Args:
        video: video file or folder of frames.
        out: .mp4 or .gif file to write; features, latent actions and errors are written beside it as .safetensors.
        context: number of true frames that the model sees.
        steps: number of frames to imagine; default: to the end of the clip.
    """
    import torch

    from dila.metrics.features import rollout_ratio

    check_imagined(out, video)
    world = open_world(model, device)
    e, z = world.features(video), world.infer(video)
    steps = len(e) - context if steps is None else steps
    e_hat = world.rollout(video, steps=steps, context=context)
    shown = slice(context - 1, context + steps)  # starts at the last frame that the model saw
    true, o = e[shown], world.pictures(video, limit=context + steps)[shown]
    ratio = rollout_ratio(e_hat[None], true[None])
    given = torch.cat([true[:1], e_hat])
    rows = {"true": o, "true, drawn": world.draw(true, o), "given, then imagined": world.draw(given, o)}
    save_imagined(out, e_hat, rows, world.stride, z=z, error_vs_copy_last=ratio)
    print(f"error relative to repeating the last true frame: {ratio.mean():.3f} (below 1 is better)")
