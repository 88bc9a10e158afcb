import pytest

from dila.cli.main import main


@pytest.mark.parametrize("layout", ["mp4", "lerobot"])
def test_it_says_what_is_there_in_the_end(layout, tmp_path, capsys):
    command = ["data", "record", "primitives", str(tmp_path / "r"), "--frames", "4", "--size", "32", "--format", layout]
    for episodes in (3, 2):
        assert main([*command, "--episodes", str(episodes)]) == 0
        assert "r holds 3 episodes" in capsys.readouterr().out


def test_a_seed_below_none_is_refused(tmp_path, capsys):
    assert main(["data", "record", "primitives", str(tmp_path / "r"), "--seed", "-3"]) == 2
    assert "--seed -3 must be at least 0" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
