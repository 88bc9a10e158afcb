"""Against a Hub made of folders: what goes up is what comes down."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError

import dila
from dila.cli.main import main
from dila.errors import DilaError
from dila.evaluate import planning
from dila.interop.actions import ActionSpace, LatentToAction, load_actions
from dila.interop.hub import push_to_hub
from dila.interop.pretrained import load_pretrained, read_notes, save_pretrained


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder that the Hub's client writes to and reads from; what it was asked is in ``asked``."""
    asked = []

    class Api:
        def __init__(self, token=None):
            asked.append(("token", token))

        def create_repo(self, repo, private, exist_ok):
            asked.append(("create", repo, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)
            return f"https://huggingface.co/{repo_id}/commit/1"

    def download(name, *, allow_patterns, **_):
        found = tmp_path / "hub" / name
        assert {p.name for p in found.iterdir()} - set(allow_patterns) <= {"README.md"}
        return str(found)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.fixture
def folder(pretrained, tmp_path):
    return save_pretrained(tmp_path / "model", pretrained, {"run": "mine"})


def test_what_goes_up_comes_down(hub, folder, tmp_path):
    address = dila.push_to_hub(folder, "me/mine", about={"limits": "cannot fly"}, private=True, token="t")
    assert address.endswith("me/mine/commit/1")
    assert hub == [("token", "t"), ("create", "me/mine", True, True)]
    there = tmp_path / "hub" / "me" / "mine"
    assert "cannot fly" in (there / "README.md").read_text()
    assert read_notes(there)["run"] == "mine"
    first, again = load_pretrained(folder), load_pretrained("me/mine")
    for name, tensor in first.model.state_dict().items():
        assert again.model.state_dict()[name].equal(tensor)
    assert dila.from_pretrained("me/mine", "cpu").stride == first.stride


def test_half_is_half(hub, folder, tmp_path):
    push_to_hub(folder, "me/small", half=True)
    small = (tmp_path / "hub" / "me" / "small" / "model.safetensors").stat().st_size
    assert small < 0.6 * (folder / "model.safetensors").stat().st_size


def test_the_model_in_the_box_can_be_pushed(hub, tmp_path):
    push_to_hub("box", "me/box")
    assert "# The model in the box" in (tmp_path / "hub" / "me" / "box" / "README.md").read_text()


def test_an_adapted_model_is_planned_with_and_packed_from_the_hub(hub, pretrained, tmp_path, monkeypatch):
    space = ActionSpace(("x",), 1, (), (0.0,), (1.0,), (2.0,), 0.5, None)
    actions = (space, LatentToAction(torch.ones(8, 1), torch.zeros(1)))
    push_to_hub(save_pretrained(tmp_path / "model", pretrained, {"run": "mine"}, actions=actions), "me/mine")
    packed = tmp_path / "packed"
    assert main(["pack", "me/mine", "--out", str(packed)]) == 0
    assert load_actions(packed)[0] == space
    assert read_notes(packed)["run"] == "mine"
    told = []
    report = {"arms": {}, "normalised": {}}
    monkeypatch.setattr(planning, "measure_planning", lambda world, space, *_, **__: told.append(space) or report)
    assert main(["plan", "me/mine", "pusht-reach", "--device", "cpu"]) == 0
    assert told == [space]


def test_the_command(hub, folder, capsys):
    assert main(["push", str(folder), "me/mine", "--private"]) == 0
    assert "https://huggingface.co/me/mine" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mine", "a/b/c", "../up/there", ""])
def test_no_id_is_refused_before_anything_is_made(name, hub, folder):
    with pytest.raises(DilaError, match="is not a Hub id"):
        push_to_hub(folder, name)
    assert hub == []


def test_a_refusal_of_the_hub_is_a_sentence(hub, folder, monkeypatch):
    def refuse(*_, **__):  # whose package of HTTP changes from version to version
        raise HfHubHTTPError("401 Unauthorized\nmore", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(DilaError, match=r"uploading me/mine to the Hub failed: 401 Unauthorized; .* hf auth login"):
        push_to_hub(Path(folder), "me/mine")


def test_no_network_is_a_sentence(hub, folder, monkeypatch, capsys):
    class ConnectError(Exception):
        """As httpx's, which is no OSError."""

    def refuse(*_, **__):
        raise ConnectError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    assert main(["push", str(folder), "me/mine"]) == 2
    assert capsys.readouterr().err.startswith(
        "dila: uploading me/mine to the Hub failed: [Errno -2] Name or service not known"
    )
