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
    """Play with a model in the browser: steer it, transfer actions to another scene, rebind, freeze, look inside.

    Args:
        model: folder of a trained model or of a run, or a Hub id; default: the included model.
        clips: videos or folders of videos to offer; default: the included clips.
        host: address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for everyone who can reach it.
        port: port to listen on; default: the first free one from 7860.
    """
    began = time.monotonic()
    from dila.data.examples import FOLDER
    from dila.demo.serve import serve

    serve(open_world(model, device), list(clips) or [FOLDER], host, port, began)
