"""What the documentation shows is what the code gives."""

import ast
import builtins
import functools
import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from dila.cli.main import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))
PAGES = [*sorted(DOCS.glob("*.md")), *TUTORIALS]


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figure_is_drawn_from_the_model_that_is_here(tmp_path, monkeypatch):
    architecture = script("architecture")
    monkeypatch.setattr(architecture, "OUT", tmp_path / "architecture.svg")
    architecture.main()
    assert (tmp_path / "architecture.svg").read_text() == (DOCS / "pictures" / "architecture.svg").read_text()


@pytest.mark.parametrize("name", ["transfer-worlds", "disentangle", "sceptic"])
def test_a_picture_is_drawn_from_what_is_here(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pictures = script("pictures")
    kept = np.asarray(Image.open(DOCS / "pictures" / f"{name}.png").convert("RGB"), dtype=np.float32)
    monkeypatch.setattr(pictures, "OUT", tmp_path)
    pictures.DRAWN[name]()
    drawn = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), dtype=np.float32)
    assert np.abs(drawn - kept).mean() < 2


def test_every_picture_is_on_a_page():
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *PAGES])
    assert not [picture.name for picture in (DOCS / "pictures").iterdir() if f"pictures/{picture.name}" not in pages]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_was_run_from_top_to_bottom_without_an_error(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]


def words(page):
    """A page's text, without what is code."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


def test_every_page_is_in_the_sites_menu_once_and_every_entry_is_a_page():
    # Read as text: the site's file has tags of its own for a loader of YAML, which the tests need not have.
    menu = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1].split("\ntheme:")[0]
    entries = re.findall(r"^ +- [^:]+: (\S+)$", menu, re.MULTILINE)
    assert sorted(entries) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_a_page_leads_somewhere_in_the_site(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", words(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_file(), target
        assert found.is_relative_to(DOCS), target
        assert not anchor or anchor in anchors(found), target


LINE = r"^ *(?:[A-Z_]+=\S+ +)*dila +(.+)$"


class Understood(Exception):
    """A command line was read to its end."""


def commands(page):
    """Its lines that call dila, each flag of each verb once, with what stands for a recipe or a folder filled in."""
    found = {}
    notebook = page.suffix == ".ipynb"  # whose commands stand in its text
    text, line_of = (words(page), r"`dila +(\S+ [^`]+)`") if notebook else (page.read_text(), LINE)
    for line in re.findall(line_of, text, re.MULTILINE):
        line = line.partition(" && ")[0].replace("RECIPE", "tiny_pusht").replace("WHAT", "all")
        given = shlex.split(line, comments=True)
        flags = [word for word in given if word.startswith("--")]
        found[" ".join(given[:2] if given[0] in ("train", "data") else given[:1]), *flags] = given
    return list(found.values())


HAND = [
    page for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))] if page.stem != "log"
]  # which tells, not shows


def pythons(page):
    """Its pieces of Python."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


def named(path):
    """What stands under a dotted name: a module, or what is in one."""
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


def test_what_pages_import_is_in_the_reference():
    told = re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    documented = {id(named(path)) for path in told}
    imported = {
        f"{n.module}.{alias.name}"
        for page in [*HAND, *TUTORIALS]
        for code in pythons(page)
        for n in ast.walk(ast.parse(code))
        if isinstance(n, ast.ImportFrom) and n.module and n.module.split(".")[0] == "dila"
        for alias in n.names
    }
    assert len(imported) > 50
    missing = [
        name
        for name in imported
        if id(named(name)) not in documented and getattr(named(name), "__module__", "") not in told
    ]  # a module in the reference brings all that it defines
    assert not missing


@pytest.mark.parametrize("page", HAND, ids=lambda page: page.stem)
def test_the_python_of_a_page_needs_nothing_that_the_page_has_not_made(page):
    """What stands in a block of Python can be pasted: every name was made in it or is built in."""
    for code in pythons(page):
        nodes = list(ast.walk(ast.parse(code)))
        made = {
            alias.asname or alias.name.split(".")[0]
            for n in nodes
            if isinstance(n, ast.Import | ast.ImportFrom)
            for alias in n.names
        }
        made |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        made |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        made |= {n.name for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        asked = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        assert asked <= made | set(dir(builtins)), page


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_every_command_of_a_page_is_understood(page, monkeypatch):
    """Verbs and flags are spelt as they are and hold what they can; nothing is run."""
    real = tyro.cli

    def read_only(verb, **options):
        @functools.wraps(verb)
        def understood(*arguments, **named):
            raise Understood

        return real(understood, **options)

    monkeypatch.setattr(tyro, "cli", read_only)
    for words in commands(page):
        with pytest.raises(Understood):
            assert main(words) is None, f"dila {shlex.join(words)}"


@pytest.mark.parametrize("folder", sorted((ROOT / "benchmarks" / "results").glob("compare")), ids=str)
def test_the_tables_of_the_results_are_made_from_the_runs_that_are_kept(folder, tmp_path):
    pytest.importorskip("matplotlib")
    from dila.recipes.summary import summarise, write_summary

    page = tmp_path / "results.md"
    page.write_text((DOCS / "results.md").read_text())
    write_summary(page, [summarise(each) for each in sorted(folder.iterdir())])
    assert page.read_text() == (DOCS / "results.md").read_text()


@pytest.mark.parametrize(("table", "numbers", "page"), [
    ("table3", "table3.json", "results.md"), ("table4", "planning/table4.json", "planning.md"),
])  # fmt: skip
def test_a_table_is_made_from_the_numbers_that_are_kept(table, numbers, page):
    markdown = importlib.import_module(f"dila.recipes.{table}").markdown
    kept = json.loads((ROOT / "benchmarks" / "results" / numbers).read_text())
    assert markdown(kept) in (DOCS / page).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = (
        f"import sys; sys.path.insert(0, 'docs'); import notebooks; notebooks.run(notebooks.Path({str(path)!r}), False)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=900)


def test_the_site_builds_strictly(tmp_path):
    pytest.importorskip("mkdocs_jupyter")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    assert (tmp_path / "site" / "tutorials" / "my_videos" / "index.html").is_file()


@pytest.fixture
def taught(tmp_path, monkeypatch):
    """A folder with the model in the box that takes a torque, as if adapted, where pages have one."""
    from dila.interop.actions import ActionSpace, LatentToAction
    from dila.interop.pretrained import load_pretrained, save_pretrained
    from dila.nn.real_actions import action_encoder
    from dila.train.adapt import with_encoder

    box = load_pretrained("box")
    repeats, width = round(box.stride / 0.05), box.model.config.action_dim
    model = with_encoder(box.model, action_encoder(repeats, width))
    space = ActionSpace(("torque",), repeats, (), (0.0,), (1.0,), (2.0,), 0.5, 0.5)
    actions = (space, LatentToAction(torch.zeros(width, repeats), torch.zeros(repeats)))
    monkeypatch.chdir(tmp_path)
    return save_pretrained(Path("outputs/adapted/model"), box._replace(model=model), actions=actions)


def test_an_environment_of_ones_own_is_planned_in_as_the_page_says(taught, monkeypatch, capsys):
    for package in ("gymnasium", "pygame"):
        pytest.importorskip(package)
    page = (DOCS / "planning.md").read_text().partition("## Your own environment")[2].partition("\n## ")[0]
    module, episodes, loop = re.findall(r"```python\n(.*?)```", page, re.S)
    Path("my_env.py").write_text(module)
    monkeypatch.setattr(sys, "path", [*sys.path])
    quick = ["--episodes", "1", "--steps", "2", "--horizon", "2", "--samples", "24", "--together", "1"]
    assert main(["plan", str(taught), "my_env:Pendulum", *quick]) == 0
    assert "s/plan" in capsys.readouterr().out
    report = json.loads(Path("outputs/plan/my_env.Pendulum/report.json").read_text())
    assert set(report["arms"]) == {"random", "model", "simulator"}
    assert report["limits"]["environment"] == {"low": [-2], "high": [2]}
    assert 0 < report["arms"]["model"]["plan_seconds"] < report["arms"]["model"]["seconds"]
    exec(episodes, {})
    made = {}
    exec(loop, made)
    assert len(made["seen"]) == 5


def test_the_lines_that_bring_a_csv_to_the_frames_do(tmp_path, monkeypatch):
    import torch

    from dila.data import open_corpus, write_video

    t = np.arange(0, 1, 0.01)
    for number in range(2):
        write_video(tmp_path / "teleop" / f"{number}.mp4", torch.zeros(10, 3, 16, 16, dtype=torch.uint8), 10)
        rows = np.stack([t, t * 100, np.full(100, number)], axis=1)
        np.savetxt(tmp_path / "teleop" / f"{number}.csv", rows, delimiter=",", header="t,joint,gripper")
    monkeypatch.chdir(tmp_path)
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", (DOCS / "data.md").read_text(), re.S) if "loadtxt" in c]
    exec(code, {})
    corpus = open_corpus(tmp_path / "teleop")
    assert corpus.names["action"] == ("joint", "gripper")
    for number, episode in enumerate(corpus.episodes):
        assert episode.columns["action"].tolist() == [[10 * f, number] for f in range(10)]


TABLES = [
    ("dila.interop.models", "MODELS"), ("dila.baselines.presets", "BASELINES"), ("dila.recipes", "ABOUT"),
    ("dila.recipes", "RECIPES"), ("dila.recipes", "ABLATIONS"), ("dila.vision", "ENCODERS"),
    ("dila.vision", "DECODERS"), ("dila.data", "READERS"), ("dila.data.simulators", "SIMULATORS"),
    ("dila.planning.environments", "ENVIRONMENTS"), ("dila.evaluate.tables", "TABLES"), ("dila.train.log", "TRACKERS"),
]  # fmt: skip


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The module that the page on extending shows, and every table afterwards as it was."""
    tables = [getattr(importlib.import_module(module), name) for module, name in TABLES]
    kept = [dict(table) for table in tables]
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(), re.S)
    (tmp_path / "mine.py").write_text("\n\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mine")
    del sys.modules["mine"]
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


def test_every_table_is_on_the_page():
    page = (DOCS / "extending.md").read_text()
    assert re.findall(r"\| `(dila\.[\w.]+)\.([A-Z]+)` \|", page) == TABLES


def test_what_the_page_on_extending_shows_works_from_recording_to_planning(mine, tmp_path, capsys, as_installed):
    from dataclasses import replace

    import numpy as np

    import dila
    from dila.data import open_corpus
    from dila.data.simulators import record_simulator
    from dila.planning.environments import make_environment
    from dila.recipes import recipe
    from dila.train.loop import train
    from dila.train.run import Stage

    data = record_simulator("disc", tmp_path / "disc", 4, 16, 32, progress=False)
    corpus = open_corpus(data)
    for number, episode in enumerate(corpus.episodes):
        frames = episode.read(range(16)).numpy()
        np.savez(tmp_path / f"arrays_{number}.npz", frames=frames, action=episode.columns["action"])
    (tmp_path / "arrays").mkdir()
    for path in tmp_path.glob("*.npz"):
        path.rename(tmp_path / "arrays" / path.name)
    assert open_corpus(tmp_path / "arrays").names == {"action": ("x", "y")}
    assert main(["data", "check", str(tmp_path / "arrays")]) == 0
    assert "4 ArrayEpisode" in capsys.readouterr().out

    few = {
        "encoder": {"name": "tiles", "size": 32}, "decoder": None, "batch": 2, "trackers": ("lines",), "log_every": 1,
        "evaluate_clips": 1,
    }  # fmt: skip
    for name, objective in (("ablation:lstm", mine.Ramped()), ("baseline:pooled", None)):
        run = recipe(name)
        stages = (Stage(objective or run.stages[0].objective, steps=2),)
        run = replace(run, **few, stages=stages, clips=replace(run.clips, frames=4, held_out=0.3))
        out = tmp_path / name.replace(":", "-")
        train(run, data, out, cache_dir=tmp_path / "cache", progress=False)
        assert len((out / "lines.txt").read_text().splitlines()) == 3
        assert dila.load(out, "cpu").infer(corpus.episodes[0].read(range(16))).shape[-1] == run.model.action_dim
        told = tmp_path / f"{out.name}.json"
        evaluation = ["eval", "drift", str(out), str(data), "--out", str(told), "--clips", "2", "--frames", "4"]
        assert main([*evaluation, "--device", "cpu", "--cache-dir", str(tmp_path / "cache")]) == 0
        assert "drift/model" in told.read_text()

    with pytest.raises(SystemExit):  # and without the warning that it is none of the models that dila has itself
        main(["train", "baseline:pooled", "--help"])
    environment = make_environment("disc-reach", 0.2, 32)
    environment.reset(seed=0)
    assert environment.step(np.ones(2, dtype=np.float32))[0].shape == (3, 32, 32)
