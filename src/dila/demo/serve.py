"""Start the page, with settings that keep the server from exposing files."""

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
"""Number of most recent visitors whose state is kept."""


@contextmanager
def serving(world: World, clips: list[Path], host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the page within the block; yield its address.

    Uploads and videos are in a private folder, deleted at the end. The server exposes no other files.

    Args:
        world: with a decoder.
        clips: videos and folders of videos to offer.
        host: address to listen on; "0.0.0.0" accepts other machines.
        port: None uses the first free port from 7860 on.

    Raises:
        DilaError: there are no clips, the model cannot draw, or the port is in use.
        MissingExtra: gradio is not installed.
    """
    give_back(above=1 << 20, arenas=2)  # each of forty threads would have its own fragmented arena
    with _own_folder() as folder:
        from dila.demo.app import STYLE, build, prepare
        from dila.demo.pad import KEYS

        page = build(prepare(world, clips, folder / "films"))
        try:
            page.launch(**_settings(), server_name=host, server_port=port, css=STYLE, head=KEYS)
        except OSError as error:
            raise DilaError(
                f"port {port or '7860 or above'} on {host} is not available: {error}; choose another --port"
            ) from error
        try:
            yield page.local_url
        finally:
            page.close(verbose=False)


def serve(world: World, clips: list[Path], host: str, port: int | None, began: float) -> None:
    """Serve until interrupted; ``began`` is the start of the program by `time.monotonic`, for the message."""
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
    """Create the folder in which gradio keeps uploads and outputs; gradio reads its path from the environment."""
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
