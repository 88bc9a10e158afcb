"""The page as it is served: what it gives, what it refuses, and (slow) what a visitor sees in a real browser."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dila.data.examples import FOLDER, example_clips
from dila.demo.app import Stage, _fresh
from dila.demo.serve import serving
from dila.errors import DilaError

pytest.importorskip("gradio", reason="the extra demo is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def address():
    """The verb itself, in a process of its own."""
    command = [sys.executable, "-m", "dila", "demo", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            ready = re.search(r"ready after .* s: (http://[\w.:]+)", process.stdout.readline())
            assert ready is not None
            yield ready[1]
        finally:
            process.terminate()


def status(url, data=None):
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def ask(address, name, *values):
    """Call a handler as the page does: put it on the queue, and wait for what it says last."""
    _, given = status(f"{address}/gradio_api/call/{name}", json.dumps({"data": list(values)}).encode())
    _, stream = status(f"{address}/gradio_api/call/{name}/{json.loads(given)['event_id']}")
    said, told = stream.strip().split("\n\n")[-1].split("\n", 1)
    return said.removeprefix("event: "), json.loads(told.removeprefix("data: "))


def test_it_listens_on_this_machine_alone(address):
    assert address.startswith("http://127.0.0.1:")
    assert status(address)[0] == 200


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "pyproject.toml"), str(Path.home()), str(ROOT / "src/dila/box/config.json"),
             str(example_clips()[0]), "../../etc/passwd",
             "pyproject.toml", "/proc/self/environ"],
)  # fmt: skip
def test_no_path_of_the_server_can_be_read(address, path):
    for route in ("gradio_api/file=", "gradio_api/file/", "file=", "gradio_api/stream/", "static/", "assets/"):
        code, said = status(f"{address}/{route}{path}")
        assert code >= 400, route
        assert "root:" not in said


def test_a_path_posing_as_an_upload_is_refused(address, tmp_path):
    film = tmp_path / "secret.mp4"
    shutil.copy(example_clips()[0], film)
    for path in (film, "/etc/passwd", example_clips()[1]):
        given = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        said, told = ask(address, "freeze", "pusht_0", given)
        assert said == "error", told


def test_a_clip_that_is_not_offered_is_refused(address):
    assert ask(address, "freeze", "/etc/passwd", None)[0] == "error"


def test_films_and_maps_come_out(address):
    for name, values in {
        "transfer": ("pusht_0", None, "pusht_1", None),
        "rebind": ("pusht_0", None, "pusht_1", None),
        "freeze": ("pusht_0", None),
    }.items():
        said, told = ask(address, name, *values)
        assert said == "complete", told
        film = told[0].get("video", told[0])
        assert status(film["url"])[0] == 200
    said, told = ask(address, "look", "pusht_0", None, "PCA")
    assert said == "complete"
    assert "<svg" in told[1]


def test_a_moment_is_chosen_within_the_clip(address):
    parts = json.loads(status(f"{address}/config")[1])["components"]
    ends = {part["props"]["label"]: part["props"]["maximum"] for part in parts if part["type"] == "slider"}
    assert ends["start at (seconds)"] == ends["at (seconds)"] == 5.6  # and not 5.6000000000000005


def test_nothing_is_published_but_what_has_a_name(address):
    named = json.loads(status(f"{address}/gradio_api/info")[1])["named_endpoints"]
    assert set(named) == {"/begin", "/transfer", "/rebind", "/freeze", "/look"}


def test_whoever_clicks_sees_that_it_is_being_done(address):
    handlers = json.loads(status(f"{address}/config")[1])["dependencies"]
    clicked = [each for each in handlers if {what for _, what in each["targets"]} & {"click", "select"}]
    assert len(clicked) > 15
    assert not [each["api_name"] for each in clicked if each["show_progress"] == "hidden"]


def test_a_page_needs_a_decoder_and_clips(box, tmp_path, monkeypatch):
    with pytest.raises(DilaError, match="no video"), serving(box, [tmp_path]):
        pass
    monkeypatch.setattr(box, "decoder", None)
    with pytest.raises(DilaError, match="dila train-decoder"), serving(box, [FOLDER]):
        pass


def test_old_films_are_removed(tmp_path):
    stage = Stage(None, None, None, tmp_path)
    old, new = _fresh(stage), _fresh(stage)
    os.utime(old.parent, (0, 0))
    _fresh(stage)
    assert not old.parent.exists()
    assert new.parent.is_dir()


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as run:
        window = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = window.new_page(viewport={"width": 1280, "height": 640})
        page.set_default_timeout(60_000)
        yield page
        window.close()


def picture(page, tab):
    """Keep a screenshot where the environment says so: that is how those of the docs are made."""
    if folder := os.environ.get("DILA_PICTURES"):
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"demo-{tab}.png", full_page=True)


@pytest.mark.slow
def test_a_visitor_plays_transfers_and_looks_inside(address, browser, tmp_path):
    page = browser
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_role("button", name="Begin").click()
    said = page.locator("#said")
    said.get_by_text("0 imagined").wait_for()
    pad = page.locator("#pad img")
    size = pad.bounding_box()
    for k in range(1, 4):
        pad.click(position={"x": size["width"] * 0.85, "y": size["height"] * 0.5})
        said.get_by_text(f"{k} imagined").wait_for()
    page.get_by_role("button", name="up", exact=True).click()
    said.get_by_text("4 imagined").wait_for()
    page.get_by_role("button", name="Undo", exact=True).click()
    said.get_by_text("3 imagined").wait_for()
    picture(page, "play")
    page.mouse.click(5, 5)
    page.keyboard.press("ArrowRight")
    said.get_by_text("4 imagined").wait_for()
    for k in range(5, 8):
        page.keyboard.down("ArrowUp")  # from the second on, it is held
        said.get_by_text(f"{k} imagined").wait_for()
    page.keyboard.up("ArrowUp")
    page.locator("input[type=number]").first.press("ArrowUp")  # is the field's
    assert said.get_by_text("7 imagined").is_visible()
    page.get_by_role("button", name="Export mp4").click()
    page.locator("video").first.wait_for()
    page.get_by_role("button", name="Reset", exact=True).click()
    said.get_by_text("0 imagined").wait_for()
    page.locator("video:visible").wait_for(state="detached")

    moment = page.locator("input[type=range]").first
    assert float(moment.get_attribute("max")) > 5
    page.get_by_label("clip", exact=True).first.click()
    page.get_by_role("option", name="solid_0").click()
    page.wait_for_function("e => Number(e.max) < 4", arg=moment.element_handle())

    for verb in ("Transfer", "Rebind", "Freeze"):
        page.get_by_role("tab", name=verb).click()
        page.get_by_role("button", name=verb, exact=True).click()
        film = page.locator("video:visible")
        film.wait_for()
        page.wait_for_function("v => v.readyState >= 2 && v.videoWidth > 300", arg=film.element_handle())
        picture(page, verb.lower())

    page.get_by_role("tab", name="Look inside").click()
    page.get_by_role("button", name="Look inside", exact=True).click()
    dots = page.locator("#plane circle")
    dots.first.wait_for()
    assert dots.count() > 20
    dots.nth(6).hover()
    assert page.locator("#pair6").evaluate("pair => getComputedStyle(pair).visibility") == "visible"
    assert page.locator("#pair7").evaluate("pair => getComputedStyle(pair).visibility") == "hidden"
    picture(page, "look")
    pytest.importorskip("umap", reason="the extra analysis is not installed")
    page.get_by_label("UMAP").check()
    page.get_by_role("button", name="Look inside", exact=True).click()
    page.locator("#plane").get_by_text("latent actions, UMAP").wait_for(timeout=400_000)
    dots.nth(6).hover()
    picture(page, "umap")
    assert errors == []


@pytest.mark.slow
def test_an_upload_is_used_and_a_wrong_one_refused(address, browser, tmp_path):
    page = browser
    page.goto(address)
    page.get_by_role("tab", name="Freeze").click()
    page.get_by_role("button", name="or your own video").locator("visible=true").click()
    (tmp_path / "fake.mp4").write_bytes(b"no video" * 100)
    chooser = (
        page.locator("input[type=file]:not([webkitdirectory])")
        .locator("visible=true")
        .or_(page.locator("[role=tabpanel]:visible input[type=file]"))
    )
    chooser.first.set_input_files(tmp_path / "fake.mp4")
    page.get_by_role("button", name="clip: fake.mp4").wait_for()
    assert not page.locator("[role=tabpanel]:visible").get_by_label("clip", exact=True).is_visible()
    page.get_by_role("button", name="Freeze", exact=True).click()
    page.get_by_text("fake.mp4 cannot be read as a video; upload another").wait_for()
    picture(page, "refused")


@pytest.mark.slow
def test_a_visitor_clicks_a_goal_and_watches_it_plan(address, browser):
    pytest.importorskip("gym_pusht", reason="the extra pusht is not installed")
    page = browser
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_role("tab", name="Plan").click()
    page.get_by_role("button", name="Plan", exact=True).click()
    page.get_by_text("there is no goal yet").wait_for()
    page.get_by_role("button", name="Show the board").click()
    board = page.locator("#board img")
    board.wait_for()
    size = board.bounding_box()
    board.click(position={"x": size["width"] * 0.2, "y": size["height"] * 0.2})
    page.locator("#goal img").wait_for()
    page.locator("#planned").get_by_text("Now press Plan").wait_for()
    page.get_by_role("button", name="Plan", exact=True).click()
    playing = page.get_by_text("recording play to learn real actions")
    playing.first.wait_for()
    assert playing.count() == 1
    page.locator("#planned").get_by_text("boards from its goal").wait_for(timeout=240_000)
    page.locator("#sheet img").wait_for()
    film = page.locator("video:visible")
    film.wait_for()
    page.wait_for_function("v => v.readyState >= 2 && v.videoWidth > 300", arg=film.element_handle())
    picture(page, "plan")
    assert errors == []
