import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dila import plugins, version
from dila.cli.main import main
from dila.data.pool import run_jobs
from dila.data.simulators import SIMULATORS
from dila.errors import DilaError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Makes a package in this folder, and has this process as if it had not looked for plugins yet."""

    def make(code, name="nine"):
        (tmp_path / f"{name}.py").write_text(code)
        return tmp_path

    monkeypatch.setattr(plugins, "_loaded", False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "nine", raising=False)
    monkeypatch.chdir(tmp_path)
    yield make
    sys.modules.pop("nine", None)


def install(folder, monkeypatch):
    """As pip does: the names beside the package that tell of it."""
    told = folder / "nine_pkg-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: nine-pkg\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text("[dila]\nnine = nine\n")
    monkeypatch.syspath_prepend(folder)


def test_an_installed_package_is_imported_once_and_only_when_a_name_is_looked_up(package, monkeypatch):
    install(package("print('imported', flush=True)"), monkeypatch)
    code = "import dila; from dila.plugins import load_plugins as l; print('before'); l(); l()"
    path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.stdout.split() == ["before", "imported"], done.stderr


def known(name):
    return name in SIMULATORS


def test_a_package_that_is_not_installed_is_named_and_workers_know_it(package, monkeypatch):
    package("from dila.data.simulators import SIMULATORS\nSIMULATORS['nine'] = 'nine:Nine'\n")
    monkeypatch.setenv("DILA_PLUGINS", " nine,")
    monkeypatch.setattr("dila.data.simulators.SIMULATORS", dict(SIMULATORS))
    plugins.load_plugins()
    assert "nine" in sys.modules
    assert list(run_jobs(known, ["nine", "ten"], 2, 2, "", progress=False)) == [True, False]


@pytest.mark.parametrize("installed", [True, False])
def test_a_plugin_that_cannot_be_imported_is_one_sentence_that_names_it(package, monkeypatch, capsys, installed):
    folder = package("1 / 0")
    if installed:
        install(folder, monkeypatch)
    else:
        monkeypatch.setenv("DILA_PLUGINS", "nine")
    mend = "fix or uninstall the package nine-pkg" if installed else "fix it, remove it from DILA_PLUGINS"
    for _ in range(2):  # and not silently left out the second time
        assert main(["data", "check", "nowhere"]) == 2
        told = capsys.readouterr().err
        assert told.startswith(
            "dila: the plugin nine cannot be imported (ZeroDivisionError: division by zero); " + mend
        )
        assert told.count("\n") == 1


def test_a_plugin_may_look_up_names_itself(package, monkeypatch):
    package("from dila.recipes import recipe\nrun = recipe('tiny_pusht')\n")
    monkeypatch.setenv("DILA_PLUGINS", "nine")
    plugins.load_plugins()
    with pytest.raises(DilaError, match="unknown recipe 'nine'"):
        sys.modules["nine"].recipe("nine")


def test_a_second_thread_waits_until_plugins_have_registered(package, monkeypatch):
    monkeypatch.setenv("DILA_PLUGINS", "nine")
    package("import time\ntime.sleep(0.2)\nREADY = True")
    with ThreadPoolExecutor(2) as pool:
        first, second = (
            pool.submit(plugins.load_plugins),
            pool.submit(lambda: plugins.load_plugins() or getattr(sys.modules["nine"], "READY", False)),
        )
        first.result()
        assert second.result()


def test_a_result_names_the_commit_of_its_own_source_only(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    installed = tmp_path / ".venv" / "lib" / "python3" / "site-packages" / "dila" / "version.py"
    installed.parent.mkdir(parents=True)
    installed.write_text(Path(version.__file__).read_text())
    subprocess.run(["git", "-C", tmp_path, "add", "-Af"], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", tmp_path, *author, "commit", "-qm", "mine"], check=True)
    monkeypatch.setattr(version, "__file__", str(installed))
    assert version.commit() is None
