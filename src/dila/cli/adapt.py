"""``dila adapt``."""

from pathlib import Path

import tyro
from tyro.conf import Positional

from dila.cli.arguments import Data, Device, Model
from dila.train.adapt import Adaptation


def adapt(
    model: Positional[Model],
    data: Positional[Data],
    out: Path = Path("outputs/adapted"),
    cache_dir: Path | None = None,
    device: Device = "auto",
    how: tyro.conf.OmitArgPrefixes[Adaptation] = Adaptation(),  # noqa: B008
) -> None:
    """Teach a trained model real actions, as planning needs. If interrupted, the same command resumes.

    Args:
        data: recordings with true actions.
        out: folder to write; the adapted model is in its subfolder ``model``.
        cache_dir: folder of encoded features; default $DILA_CACHE or ~/.cache/dila/features.
        how: settings of the adaptation.
    """
    from dila.train.adapt import adapt

    made = adapt(model, data, out, how, cache_dir=cache_dir, device=device)
    space = made.space
    print(f"an action is {', '.join(space.names)}; {space.repeats} per transition")
    for way, what, score in (
        ("of latent actions from actions", "latent actions", space.to_latent_r2),
        ("of actions from latent actions", "actions", space.from_latent_r2),
    ):
        told = f"undefined, because the {what} there do not vary" if score is None else f"{score:.2f}"
        print(f"R² {way}, on trajectories left out of the fit: {told}")
    if space.structure_error is not None:
        print(f"structure under held-out true actions: error {space.structure_error:.2f} (1 is standing still)")
    print(f"the adapted model is in {made.folder}")
