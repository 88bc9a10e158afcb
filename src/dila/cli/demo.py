"""``dila demo``."""

import time
from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import Device, open_world


def demo(
    model: Positional[str] = "box",
    clips: tuple[Path, ...] = (),
    host: str = "127.0.0.1",
    port: int | None = None,
    device: Device = "auto",
) -> None:
    """Play a model in the browser: steer it, move actions to another scene, rebind, freeze, look inside.

    Args:
        model: folder of a trained model or of a run, Hub id; the model in the box when left out.
        clips: videos or folders of videos to offer; those that come with the package when left out.
        host: address to listen on. 127.0.0.1 is this machine alone, 0.0.0.0 whoever reaches it.
        port: the first free one from 7860 when left out.
    """
    began = time.monotonic()
    from dila.data.examples import FOLDER
    from dila.demo.serve import serve

    serve(open_world(model, device), list(clips) or [FOLDER], host, port, began)
