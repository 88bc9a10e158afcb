"""What the verbs that imagine write takes the place of nothing that is somebody's."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import dila
from dila.cli.arguments import save_imagined
from dila.cli.main import main
from dila.data import probe_video, read_video, write_video
from dila.data.clips import resized
from dila.imagine.pictures import GAP


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "in.mp4"
    write_video(path, torch.zeros(6, 3, 32, 32, dtype=torch.uint8), 5)
    return path


@pytest.fixture
def no_work(monkeypatch):
    """Nothing may be loaded before the refusal."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(dila, "load", load)


LINES = {
    "rollout": ["rollout", "box", "{clip}"],
    "isolate": ["isolate", "box", "{clip}"],
    "transfer": ["transfer", "box", "box/pusht_0", "{clip}"],
    "rebind": ["rebind", "box", "{clip}", "box/pusht_0"],
}


def run(verb, clip, out):
    return main([*(word.format(clip=clip) for word in LINES[verb]), "--out", str(out)])


@pytest.mark.parametrize("verb", LINES)
def test_the_clip_that_is_read_is_not_written_over(verb, clip, no_work, capsys):
    before = clip.read_bytes()
    assert run(verb, clip, clip.parent / "." / "in.mp4") == 2
    assert "in.mp4 is an input clip" in capsys.readouterr().err
    assert clip.read_bytes() == before


@pytest.mark.parametrize("verb", LINES)
@pytest.mark.parametrize("held", ["weights", "no tensors"])
def test_numbers_of_something_else_are_not_written_over(verb, held, clip, no_work, capsys):
    numbers = clip.with_name("model.safetensors")
    if held == "weights":
        save_file({"weight": torch.zeros(2)}, numbers)
    else:
        numbers.write_text("mine")
    before = numbers.read_bytes()
    assert run(verb, clip, clip.with_name("model.gif")) == 2
    assert "would replace" in capsys.readouterr().err
    assert numbers.read_bytes() == before
    assert not clip.with_name("model.gif").exists()


def test_what_was_imagined_before_is_replaced(clip, tmp_path):
    shutil.copy(clip, tmp_path / "again.mp4")
    out = tmp_path / "made.gif"
    assert run("rollout", clip, out) == 0
    assert run("isolate", tmp_path / "again.mp4", out) == 0
    with safe_open(tmp_path / "made.safetensors", "pt") as stored:
        assert "motion_left" in stored.keys()  # noqa: SIM118


@pytest.mark.parametrize("stride", [0.4, 0.67, 2.5])
def test_a_clip_is_as_fast_as_what_it_shows(stride, tmp_path):
    save_imagined(tmp_path / "made.mp4", torch.zeros(1), {"x": torch.zeros(4, 3, 32, 32, dtype=torch.uint8)}, stride)
    assert probe_video(tmp_path / "made.mp4").times == pytest.approx([0, stride, 2 * stride, 3 * stride], rel=1e-3)


@pytest.mark.parametrize(("verb", "inputs"), [("rollout", 1), ("isolate", 1), ("transfer", 2), ("rebind", 2)])
def test_inputs_are_shown_as_they_were_filmed(verb, inputs, tmp_path):
    """They were drawn by the model, as a square, and called by their names."""
    ramp = torch.linspace(20, 150, 80)[None] + torch.linspace(0, 60, 40)[:, None]
    given = torch.stack([ramp + 5 * k for k in range(6)])[:, None].expand(-1, 3, -1, -1).byte()
    write_video(tmp_path / "wide.mp4", given, 5)
    line = [verb, "box", *[str(tmp_path / "wide.mp4")] * inputs, "--out", str(tmp_path / "made.mp4")]
    assert main(line) == 0
    frames = read_video(tmp_path / "made.mp4", range(5)).float()
    assert frames.shape[-1] == 3 * (128 + 2 * GAP)
    first, drawn = (frames[0, :, -64 - GAP : -GAP, at : at + 128] for at in (GAP, 2 * 128 + 5 * GAP))
    wanted = resized(given[0 if verb == "rollout" else 1], (64, 128)).float()
    assert (first - wanted).abs().mean() < 4
    assert drawn.max() < 240  # a square would leave paper
