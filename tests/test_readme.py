"""What the README tells a newcomer to paste, pasted."""

import re
import shlex
from pathlib import Path

import pytest

from dila.cli.main import main

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


@pytest.fixture
def beside_outputs(first_look, tmp_path, monkeypatch):
    """A folder where `make quickstart` has been run."""
    (tmp_path / "outputs").symlink_to(first_look.folder.parent)
    (tmp_path / "tests").symlink_to(README.parent / "tests")
    monkeypatch.chdir(tmp_path)


def test_it_is_short():
    assert len(README.read_text().splitlines()) < 180


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs(code, beside_outputs):
    names = {}
    exec(code, names)
    assert names["frames"].shape[0] == names["z"].shape[0]


@pytest.mark.parametrize("line", "".join(blocks("bash")).splitlines())
def test_the_command_runs(line, beside_outputs, capsys):
    dila, *arguments = shlex.split(line)
    assert dila == "dila"
    assert main(arguments) == 0
    for written in re.findall(r"\boutputs/[\w./]+", capsys.readouterr().out):
        assert Path(written.rstrip(".,:")).exists()


def test_every_verb_that_is_mentioned_exists():
    from dila.cli.main import VERBS

    mentioned = re.findall(r"(?:^|`)(?:    )?dila ((?:data )?[a-z][a-z-]+)", README.read_text(), re.M)
    assert {verb for verb in mentioned if verb != "load"} <= VERBS.keys()
    assert len(mentioned) > 8
