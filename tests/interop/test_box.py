"""The model that comes with the package."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import dila
from dila.data import example_clips, open_corpus
from dila.interop import box
from dila.interop.pack import pack
from dila.interop.pretrained import load_pretrained, read_notes
from dila.metrics.features import pooled_rollout_ratio

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world():
    return dila.load("box", "cpu")


def test_it_imagines_better_than_repeating_the_first_frame_on_its_examples(world):
    e = torch.stack([world.features(clip)[:9] for clip in example_clips()])
    z = torch.stack([world.infer(clip)[:8] for clip in example_clips()])
    e_hat = torch.stack([world.rollout(clip, z=z[i]) for i, clip in enumerate(example_clips())])
    assert pooled_rollout_ratio(e_hat, e) < 0.7


def test_it_can_draw_and_rolls_out_in_float32(world):
    assert {p.dtype for p in world.model.parameters()} == {torch.float32}
    assert world.draw(world.rollout(example_clips()[0], steps=2)).shape == (2, 3, 128, 128)


def test_model_and_clips_are_small_enough_for_every_wheel():
    files = [*box.FOLDER.iterdir(), *example_clips()]
    assert sum(path.stat().st_size for path in files) <= box.BYTES


def test_its_card_has_the_numbers_of_its_notes():
    card, scores = (box.FOLDER / "README.md").read_text(), read_notes(box.FOLDER)["scores"]
    tables = [part for part in scores.values() if isinstance(part, dict)] or [scores]
    assert tables[0]
    assert all(f"| {number:.3f} |" in card for table in tables for number in table.values())
    assert "## Limits" in card
    assert "Not documented" not in card


def test_a_path_called_box_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_corpus("box").episodes[0].id == "pusht_0.mp4"
    assert len(open_corpus("box/pusht_1")) == 1
    pack("box", tmp_path / "box", {"title": "mine"})
    load_pretrained("box")
    assert read_notes("box")["title"] == "mine"
    shutil.copy(example_clips()[0], tmp_path / "box" / "own.mp4")
    assert [episode.id for episode in open_corpus("box").episodes] == ["own.mp4"]


@pytest.mark.slow
def test_the_wheel_holds_it(tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "outputs", "build", "site"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(tree)]
    subprocess.run(command, check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    wanted = [*box.FOLDER.iterdir(), *example_clips()]
    assert {f"dila/{path.parent.name}/{path.name}" for path in wanted} <= set(names)
