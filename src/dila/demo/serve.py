"""Starting the page, with all that keeps a server from giving away more than it should."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dila.demo.clips import MEGABYTES
from dila.errors import DilaError
from dila.imagine.world import World
from dila.train.memory import give_back

SESSIONS = 64
"""Visitors whose state is kept, the newest."""


@contextmanager
def serving(world: World, clips: list[Path], host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """The page while the block lasts; its address is what is given.

    Uploads and films lie in a folder of the page's own, which ends with it. Nothing else can be read through it.

    Args:
        world: with a decoder.
        clips: videos and folders of videos to offer.
        host: address to listen on; "0.0.0.0" lets others in.
        port: the first free one from 7860 when None.

    Raises:
        DilaError: no clips, a model that cannot draw, or a port in use.
        MissingExtra: gradio is not installed.
    """
    give_back(above=1 << 20, arenas=2)  # forty threads would have an arena each, full of holes
    with _own_folder() as folder:
        from dila.demo.app import STYLE, build, prepare

        page = build(prepare(world, clips, folder / "films"))
        try:
            page.launch(**_settings(), server_name=host, server_port=port, css=STYLE)
        except OSError as error:
            raise DilaError(
                f"port {port or 'from 7860 on'} on {host} cannot be had: {error}; choose another --port"
            ) from error
        try:
            yield page.local_url
        finally:
            page.close(verbose=False)


def serve(world: World, clips: list[Path], host: str, port: int | None, began: float) -> None:
    """Serve until interrupted; ``began`` is when all this did, as `time.monotonic` tells it."""
    with serving(world, clips, host, port) as address:
        print(f"ready after {time.monotonic() - began:.1f} s: {address} (Ctrl-C ends it)", flush=True)
        while True:
            time.sleep(3600)


def _settings() -> dict[str, Any]:
    import gradio as gr

    return {
        "prevent_thread_lock": True, "quiet": True, "share": False, "inbrowser": False, "show_error": True,
        "max_file_size": MEGABYTES * 2**20, "allowed_paths": [], "blocked_paths": [str(Path.cwd()), str(Path.home())],
        "state_session_capacity": SESSIONS, "footer_links": [], "ssr_mode": False, "mcp_server": False, "pwa": False,
        "enable_monitoring": False, "theme": gr.themes.Default(font=["system-ui"], font_mono=["monospace"]),
    }  # fmt: skip


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Where gradio keeps what visitors send and get, which it takes from the environment."""
    folder = Path(tempfile.mkdtemp(prefix="dila-demo-"))
    (folder / "films").mkdir()
    told = {"GRADIO_TEMP_DIR": str(folder / "cache"), "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield folder
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder, ignore_errors=True)
