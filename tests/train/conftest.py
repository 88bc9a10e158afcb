import sys
from pathlib import Path

import pytest

from dila import vision

# Tests are imported without their folder on the path; what these share also serves test_golden.py run as a script.
sys.path.append(str(Path(__file__).parent))

from train_world import PatchConfig, PatchEncoder, write_corpus


@pytest.fixture(autouse=True)
def patch_encoder(monkeypatch):
    monkeypatch.setitem(vision.ENCODERS, PatchEncoder.name, (PatchEncoder, PatchConfig))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")
