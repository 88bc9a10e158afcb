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
    true = e[context - 1 : context + steps]
    ratio = rollout_ratio(e_hat[None], true[None])
    from_true = torch.cat([true[:1], e_hat])  # both begin with what the model saw last, so that no picture is blank
    rows = {"true, drawn": world.draw(true), "imagined": world.draw(from_true)}
    save_imagined(out, e_hat, rows, world.stride, z=z, error_vs_copy_last=ratio)
    print(f"error over that of repeating the last true frame: {ratio.mean():.3f} (1 is no better)")
