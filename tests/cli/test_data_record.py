import re

import pytest

from dila.cli.data_record import GENERATORS
from dila.cli.main import main
from dila.data.simulators import SIMULATORS


@pytest.mark.parametrize("layout", ["mp4", "lerobot"])
def test_it_says_what_is_there_in_the_end(layout, tmp_path, capsys):
    command = ["data", "record", "primitives", str(tmp_path / "r"), "--frames", "4", "--size", "32", "--format", layout]
    for episodes in (3, 2):
        assert main([*command, "--episodes", str(episodes)]) == 0
        assert "r has 3 episodes" in capsys.readouterr().out


def test_a_seed_below_none_is_refused(tmp_path, capsys):
    assert main(["data", "record", "primitives", str(tmp_path / "r"), "--seed", "-3"]) == 2
    assert "--seed -3 must be at least 0" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_a_simulator_of_ones_own_is_a_source(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(SIMULATORS, "nine", "nowhere:Nine")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        main(["data", "record", "nine", str(tmp_path / "r")])
    assert main(["data", "record", "ten", str(tmp_path / "r")]) == 2
    assert "there is no source 'ten'; choose one of pusht, primitives, objects3d, fetch," in capsys.readouterr().err


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit):
        main(["data", "record", "--help"])
    told = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert [name for name in (*GENERATORS, *SIMULATORS) if name not in told] == []
