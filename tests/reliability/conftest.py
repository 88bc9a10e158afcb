import json
import sys
from pathlib import Path

import pytest

from dila import vision

# Processes that tests kill import what they do by name, as tests of training do.
sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "train")]

import victims
from outcomes import RESULTS
from train_world import PatchConfig, PatchEncoder, write_corpus


@pytest.fixture(autouse=True)
def patch_encoder(monkeypatch):
    monkeypatch.setitem(vision.ENCODERS, PatchEncoder.name, (PatchEncoder, PatchConfig))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory, corpus):
    """What each verb leaves when nothing happens: result, seconds, and how often it changes a file."""
    known = {}

    def result(verb):
        if verb not in known:
            folder = tmp_path_factory.mktemp("whole") / verb
            process = victims.start(verb, folder, corpus)
            assert victims.told(process) == ""
            told = json.loads((folder.parent / f"{verb}.json").read_text())
            known[verb] = RESULTS[verb](folder), told["seconds"], told["changes"]
        return known[verb]

    return result
