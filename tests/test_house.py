"""The architecture as tests: who imports whom, what stays light, how long files may grow."""

import ast
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from dila.model.config import Quirks

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "dila"
HEAVY = {"torchvision", "transformers", "gymnasium", "gym_pusht", "pygame", "matplotlib", "sklearn", "umap", "gradio"}
LATER = {"accelerate", "pyarrow", "pandas", "torchmetrics", "tensorboard", "wandb", "av", "h5py", "fsspec", "PIL"}


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def modules_after(statement: str) -> set[str]:
    return set(run(sys.executable, "-c", f"import sys; {statement}; print(*sys.modules)").split())


def lines(*paths: Path) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for path in paths for line in path.read_text().splitlines())


def test_imports_point_one_way():
    entry = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    assert "1 kept, 0 broken" in run(sys.executable, "-c", entry)


def test_importing_the_package_imports_no_torch():
    loaded = modules_after("import dila")
    assert "dila" in loaded
    assert loaded & ({"torch", "numpy"} | HEAVY | LATER) == set()


def test_help_imports_no_torch():
    loaded = modules_after("from dila.cli.main import main; main(['--help'])")
    assert loaded & ({"torch", "numpy"} | HEAVY | LATER) == set()


@pytest.mark.parametrize("module", ["model.dila", "imagine.rollout", "train.objectives", "interop.released", "data"])
def test_the_core_imports_nothing_heavy(module):
    assert modules_after(f"import dila.{module}") & (HEAVY | LATER) == set()


def test_the_paper_is_short():
    assert lines(*PACKAGE.glob("model/*.py")) < 800


def test_a_newcomer_reads_under_a_thousand_lines():
    path = [PACKAGE / "shapes.py", *PACKAGE.glob("model/*.py"), PACKAGE / "imagine/rollout.py"]
    assert lines(*path, PACKAGE / "train/objectives.py") < 1_000


def test_no_file_is_long():
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_folders_are_one_level_deep_and_none_is_called_utils():
    folders = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    assert [folder for folder in folders if len(folder.parts) > 1] == []
    assert not {"utils", "util", "helpers", "common", "misc"} & {path.stem for path in PACKAGE.rglob("*")}


def test_a_folder_of_the_package_has_tests_of_the_same_name():
    """Siblings of tests may be fewer than of source, but no test stands where no source does.

    Reliability is of no one folder.
    """
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    folders -= {Path("reliability")}
    assert [str(folder) for folder in folders if not (PACKAGE / folder).is_dir()] == []


def tracked() -> list[Path]:
    """Files of the repository, or all but the obvious where it was unpacked without git."""
    try:
        names = run("git", "ls-files", "-co", "--exclude-standard").splitlines()
    except (AssertionError, FileNotFoundError):
        skipped = {".venv", ".git", "__pycache__", "runs", "outputs", "build", "dist"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not skipped & set(p.relative_to(ROOT).parts)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_nothing_points_outside_the_repository():
    outside = ["/" + name for name in ("work/", "home/", "root/", "shared/")]
    text = {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".txt", ".sh", ".json", ""}
    pointing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in tracked()
        if path.suffix in text and path.resolve() != Path(__file__).resolve()
        for name in outside
        if name in path.read_text(errors="ignore")
    }
    assert pointing == set()


def test_links_of_the_papers_lead_somewhere():
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
        for target in re.findall(r"\]\(([^)#]+)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert broken == []


def test_every_test_and_function_named_in_the_paper_map_exists():
    text = (ROOT / "docs" / "paper_map.md").read_text()
    missing = [name for name in re.findall(r"`((?:src|tests)/[^`:]+\.py)", text) if not (ROOT / name).is_file()]
    for path, function in re.findall(r"`(tests/[^`:]+\.py)::(\w+)`", text):
        if function not in _functions(ROOT / path):
            missing.append(f"{path}::{function}")
    assert missing == []


def _functions(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_option_that_selects_a_released_way_is_described():
    deviations = (ROOT / "docs" / "deviations.md").read_text()
    assert [field.name for field in fields(Quirks) if f"`{field.name}`" not in deviations] == []


def test_what_ci_makes_are_targets():
    made = re.findall(r"\bmake ((?:[a-z][a-z-]* ?)+)", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"lint", "types", "test-slow"} <= {target for each in made for target in each.split()} <= targets
