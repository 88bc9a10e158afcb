"""The web page: connects its controls to the functions beside. All of a visitor's state is in their `gr.State`."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dila.demo.clips import MEGABYTES, SECONDS, SUFFIXES, Shelf, last_start, read_frames, shelve
from dila.demo.compass import Compass, find_compass
from dila.demo.look import Plane, axis_names, look, plane, scatter, sheet
from dila.demo.pad import ARROWS, amounts, draw_pad
from dila.demo.pairs import PAGE, freeze_rows, rebind_rows, transfer_rows, write_rows
from dila.demo.plan import Goal, goal_at, goal_like, learn_hands, plan_to, start_picture
from dila.demo.play import Play, begin, export, move, reset, undo
from dila.errors import DilaError, MissingExtra
from dila.evaluate.curves import write_curves
from dila.imagine.pictures import contact_sheet, scaled
from dila.imagine.world import World
from dila.shapes import Tensor, UInt8

TITLE = "DiLA: play a latent action world model"
HOUR = 3600
WAITING = 128
"""Maximum number of queued requests, more than the sessions kept: a visitor waits for one request at a time."""
STEPS, FILMS = "steps", "films"
"""Two queues, each of which runs one request at a time, so that steps never wait for videos."""
QUICK: dict[str, Any] = {"api_visibility": "private", "concurrency_id": STEPS}
"""Settings of handlers that are no endpoints and answer at once."""
SHOWN = 400
"""Pixels of the longer side of the displayed picture."""
_LIMITS = f"{', '.join(SUFFIXES)}; at most {MEGABYTES} MB and {SECONDS} s. Only the first frames are used."
# gradio gives progress on a line of text no height.
STYLE = """
.now img, .pad img { image-rendering: auto; width: 100% } .pad { cursor: crosshair } footer, .keys { display: none }
#said .minimal { height: 100%; overflow: visible } #said .progress-text { top: 0; transform: none }
"""


class Stage(NamedTuple):
    """What all visitors share; constant after startup."""

    world: World
    shelf: Shelf
    compass: Compass
    folder: Path
    """Where videos are written before gradio copies them."""


def prepare(world: World, clips: list[Path], folder: Path) -> Stage:
    """Read the example clips and find the directions of z.

    Raises:
        DilaError: there are no clips, or the model cannot draw.
    """
    if world.decoder is None:
        raise DilaError("this model has no decoder, so it cannot draw frames; train one with: dila train-decoder")
    shelf = shelve(clips)
    some = [read_frames(world, path) for path in list(shelf.paths.values())[:6]]
    return Stage(world, shelf, find_compass(world, some), folder)


def build(stage: Stage) -> Any:
    """Build the page as gradio Blocks. A tab is a function of this file and an entry of `TABS`.

    Raises:
        MissingExtra: gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise MissingExtra("dila demo", "gradio", "demo") from error

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"## {TITLE}")
        for name, tab in TABS.items():
            with gr.Tab(name):
                tab(gr, stage)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def _play_tab(gr: Any, stage: Stage) -> None:
    state = gr.State(None, time_to_live=HOUR)
    with gr.Row():
        with gr.Column(scale=1):
            clip, upload = _picker(gr, stage, "clip")
            start = _moment(gr, stage, clip, upload, "start at (seconds)")
            begun = gr.Button("Begin", variant="primary")
            have = len(stage.compass.axes)
            others = [gr.Slider(-2, 2, 0, label=f"direction {i + 1} of z", visible=i < have) for i in (2, 3)]
        with gr.Column(scale=1):
            gr.Markdown("Click on the pad or on an action, or press an arrow key, to imagine one frame.")
            pad = gr.Image(
                draw_pad(stage.compass), show_label=False, interactive=False, elem_classes="pad", elem_id="pad",
                buttons=[],
            )  # fmt: skip
            names = list(stage.compass.actions)
            buttons = []
            for i in range(0, len(names), 4):
                with gr.Row():
                    buttons += [gr.Button(name, size="sm", min_width=60) for name in names[i : i + 4]]
            keys = [gr.Button(key, elem_id=key, elem_classes="keys") for key in ARROWS]
        with gr.Column(scale=1):
            now = gr.Image(show_label=False, interactive=False, elem_classes="now", elem_id="now", buttons=[])
            said = gr.Markdown("Press Begin first.", elem_id="said")
            with gr.Row():
                back, again, save = gr.Button("Undo"), gr.Button("Reset"), gr.Button("Export mp4")
            film = _screen(gr, visible=False)
    shown, told = [state, now, said, film], gr.Progress()
    # Progress over the picture would flicker at each step.
    quiet: dict[str, Any] = QUICK | {"show_progress": "minimal", "show_progress_on": said}

    def show(play: Play) -> tuple:
        """Update the page and hide the last exported video."""
        return play, _enlarged(play.now), f"{len(play.actions)} imagined frame(s)", gr.Video(None, visible=False)

    def start_playing(name: str, file: str | None, seconds: int | float, progress: Any = told) -> tuple:
        with _told(gr):
            progress(0.1, "reading")
            frames = read_frames(stage.world, stage.shelf.choose(name, file), seconds, 2)
            progress(0.5, "encoding")
            return show(begin(stage.world, frames[:1]))

    def go(play: Play | None, z: Any) -> tuple:
        with _told(gr):
            return show(move(stage.world, _begun(play), z))

    def steer(right: int | float, down: int | float, play: Play | None, *further: int | float) -> tuple:
        return go(play, stage.compass.point([right, down, *further][: len(stage.compass.axes)]))

    def click(play: Play | None, third: int | float, fourth: int | float, event: gr.SelectData) -> tuple:  # pyright: ignore[reportInvalidTypeForm]
        return steer(*amounts(*event.index[:2]), play, third, fourth)

    begun.click(start_playing, [clip, upload, start], shown, api_name="begin", concurrency_id=STEPS)
    pad.select(click, [state, *others], shown, **quiet)
    for key, way in zip(keys, ARROWS.values(), strict=True):
        key.click(partial(steer, *way), [state, *others], shown, **quiet)
    for name, button in zip(names, buttons, strict=True):
        button.click(_under(go, stage.compass.actions[name]), [state], shown, **quiet)
    for button, change in ((back, undo), (again, reset)):
        button.click(_changed(gr, stage, show, change), [state], shown, **quiet)

    def write(play: Play | None) -> Any:
        with _told(gr):
            return gr.Video(str(export(_begun(play), _fresh(stage), stage.world.stride)), visible=True)

    save.click(write, [state], film, **QUICK)


def _pair_tab(verb: str, first: str, second: str, rows: Callable[..., Any]) -> Callable[[Any, Stage], None]:
    """Return a tab that makes one video from two clips."""

    def tab(gr: Any, stage: Stage) -> None:
        with gr.Row():
            one, one_file = _picker(gr, stage, first)
            two, two_file = _picker(gr, stage, second, 1)
        press, film = gr.Button(verb, variant="primary"), _screen(gr)
        told = gr.Progress()

        def run(name: str, file: str | None, other: str, other_file: str | None, progress: Any = told) -> str:
            with _told(gr):
                progress(0.1, "reading")
                clips = [
                    read_frames(stage.world, stage.shelf.choose(*chosen))
                    for chosen in ((name, file), (other, other_file))
                ]
                progress(0.4, "imagining")
                made = rows(stage.world, *clips)
                progress(0.9, "writing")
                return str(write_rows(made, _fresh(stage), stage.world.stride))

        press.click(run, [one, one_file, two, two_file], film, api_name=verb.lower(), concurrency_id=FILMS)

    return tab


def _freeze_tab(gr: Any, stage: Stage) -> None:
    clip, upload = _picker(gr, stage, "clip")
    press, film = gr.Button("Freeze", variant="primary"), _screen(gr)
    told = gr.Progress()

    def run(name: str, file: str | None, progress: Any = told) -> str:
        with _told(gr):
            progress(0.1, "reading")
            frames = read_frames(stage.world, stage.shelf.choose(name, file))
            progress(0.4, "imagining")
            return str(write_rows(freeze_rows(stage.world, frames), _fresh(stage), stage.world.stride))

    press.click(run, [clip, upload], film, api_name="freeze", concurrency_id=FILMS)


def _look_tab(gr: Any, stage: Stage) -> None:
    with gr.Row():
        clip, upload = _picker(gr, stage, "clip")
        method = gr.Radio(["PCA", "UMAP"], value="PCA", label="projection of z (the first UMAP takes minutes)")
    press = gr.Button("Look inside", variant="primary")
    maps = gr.Image(show_label=False, interactive=False, buttons=[])
    dots, told = gr.HTML(elem_id="plane"), gr.Progress()

    def run(name: str, file: str | None, way: str, progress: Any = told) -> tuple:
        with _told(gr):
            progress(0.1, "reading")
            frames = read_frames(stage.world, stage.shelf.choose(name, file))
            progress(0.4, "encoding")
            inside = look(stage.world, frames)
            progress(0.7, "projecting z")
            method: Plane = "UMAP" if way == "UMAP" else "PCA"
            title = f"latent actions, {way}: point at a dot"
            named = axis_names(inside.z, method)
            return sheet(inside), scatter(plane(inside.z, method), inside.frames, title, named)

    press.click(run, [clip, upload, method], [maps, dots], api_name="look", concurrency_id=FILMS)


def _plan_tab(gr: Any, stage: Stage) -> None:
    aim, taught = gr.State(None, time_to_live=HOUR), []
    gr.Markdown("Push-T in its simulator. Click where the agent (the disc) should go, or choose a frame of a clip.")
    with gr.Row():
        with gr.Column(scale=1):
            seed = gr.Slider(0, 99, 3, step=1, label="start number")
            open_board = gr.Button("Show the board")
            with gr.Accordion("or a frame of a clip as the goal", open=False):
                clip, upload = _picker(gr, stage, "clip")
                at = _moment(gr, stage, clip, upload, "at (seconds)")
                take = gr.Button("Take this frame")
            press = gr.Button("Plan", variant="primary")
        with gr.Column(scale=1):
            gr.Markdown("Start: click on the board.")
            board = gr.Image(show_label=False, interactive=False, elem_classes="pad", elem_id="board", buttons=[])
        with gr.Column(scale=1):
            gr.Markdown("Goal")
            wanted = gr.Image(show_label=False, interactive=False, elem_id="goal", buttons=[])
    said = gr.Markdown("Show the board first.", elem_id="planned")
    sheet = gr.Image(show_label=False, interactive=False, elem_id="sheet", buttons=[])
    with gr.Row():
        film, chart = _screen(gr), gr.Image(show_label=False, interactive=False, buttons=[])
    told = gr.Progress()

    def show(number: int | float) -> tuple:
        with _told(gr):
            return None, _enlarged(start_picture(int(number))), None, "Now choose a goal."

    def shown(goal: Goal) -> tuple:
        return goal, _enlarged(goal.picture), "Now press Plan: it takes about ten seconds on a CPU."

    def click(number: int | float, event: gr.SelectData) -> tuple:  # pyright: ignore[reportInvalidTypeForm]
        with _told(gr):
            return shown(goal_at(int(number), *(pixel / SHOWN for pixel in event.index[:2])))

    def frame(number: int | float, name: str, file: str | None, seconds: int | float) -> tuple:
        with _told(gr):
            first = read_frames(stage.world, stage.shelf.choose(name, file), seconds, 2)[0]
            return shown(goal_like(int(number), first))

    def run(goal: Goal | None, progress: Any = told) -> tuple:
        with _told(gr):
            if goal is None:
                raise DilaError("there is no goal yet; show the board and click on it")
            if not taught:
                taught.append(learn_hands(stage.world, lambda share, what: progress(0.4 * share, what)))
            made = plan_to(stage.world, taught[0], goal, progress)
            path = _fresh(stage)
            write_curves(path.with_suffix(".png"), made.curves, made.line, made.unit)
            write_rows(made.rows, path, stage.world.stride, PAGE // 2)
            return made.said, contact_sheet(made.rows, 10), str(path), _opened(path.with_suffix(".png"))

    open_board.click(show, [seed], [aim, board, wanted, said], **QUICK)
    seed.release(show, [seed], [aim, board, wanted, said], **QUICK)
    board.select(click, [seed], [aim, wanted, said], **QUICK)
    take.click(frame, [seed, clip, upload, at], [aim, wanted, said], **QUICK)
    # Show progress on one output only: the line of text has no room for a bar, and several bars are redundant.
    press.click(
        run, [aim], [said, sheet, film, chart], api_visibility="private", concurrency_id=FILMS, show_progress_on=sheet
    )


TABS: dict[str, Callable[[Any, Stage], None]] = {
    "Play": _play_tab,
    "Transfer": _pair_tab("Transfer", "actions from", "in the scene of", transfer_rows),
    "Rebind": _pair_tab("Rebind", "structure from", "content from", rebind_rows),
    "Freeze": _freeze_tab,
    "Look inside": _look_tab,
    "Plan": _plan_tab,
}


def _picker(gr: Any, stage: Stage, label: str, place: int = 0) -> tuple[Any, Any]:
    names = stage.shelf.names
    with gr.Column():
        clip = gr.Dropdown(names, value=names[min(place, len(names) - 1)], label=label)
        with gr.Accordion("or your own video", open=False) as own:
            upload = gr.File(label=_LIMITS, file_types=list(SUFFIXES), type="filepath")

    def name(file: str | None) -> tuple:
        """Hide the clip's name while an upload replaces it."""
        return gr.Dropdown(visible=not file), gr.Accordion(label=f"{label}: {Path(file).name}" if file else own.label)

    upload.change(name, [upload], [clip, own], show_progress="hidden", **QUICK)
    return clip, upload


def _moment(gr: Any, stage: Stage, clip: Any, upload: Any, label: str) -> Any:
    """Return a slider over the length of the chosen clip."""

    def follow(name: str, file: str | None) -> Any:
        with _told(gr):
            return gr.Slider(maximum=last_start(stage.world, stage.shelf.choose(name, file)), value=0)

    first: int | float = SECONDS
    with suppress(DilaError):  # the error is shown when the visitor presses Begin
        first = last_start(stage.world, stage.shelf.choose(clip.value, None))
    slider = gr.Slider(0, first, 0, step=stage.world.stride, label=label)
    for chosen in (clip, upload):
        chosen.change(follow, [clip, upload], slider, show_progress="hidden", **QUICK)
    return slider


def _screen(gr: Any, visible: bool = True) -> Any:
    return gr.Video(show_label=False, interactive=False, autoplay=True, loop=True, visible=visible)


def _under(go: Callable[..., tuple], z: Any) -> Callable[[Any], tuple]:
    return lambda play: go(play, z)


def _changed(
    gr: Any, stage: Stage, show: Callable[[Play], tuple], change: Callable[[World, Play], Play]
) -> Callable[[Any], tuple]:
    def handler(play: Play | None) -> tuple:
        with _told(gr):
            return show(change(stage.world, _begun(play)))

    return handler


@contextmanager
def _told(gr: Any) -> Iterator[None]:
    """Show a DilaError as a message on the page."""
    try:
        yield
    except DilaError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _begun(play: Play | None) -> Play:
    if play is None:
        raise DilaError("there is no picture yet; choose a clip and press Begin")
    return play


def _enlarged(picture: UInt8[Tensor, "3 Y X"]) -> Any:
    """Enlarge a picture, as the page does not scale pictures up."""
    return scaled(picture, SHOWN).permute(1, 2, 0).numpy()


def _opened(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.copy()


def _fresh(stage: Stage) -> Path:
    """Return a new path that cannot be guessed for a video; remove old videos, which gradio has copied."""
    for old in stage.folder.iterdir():
        with suppress(FileNotFoundError):  # removed by another request meanwhile
            if time.time() - old.stat().st_mtime > HOUR:
                shutil.rmtree(old)
    return Path(tempfile.mkdtemp(dir=stage.folder)) / "dila.mp4"
