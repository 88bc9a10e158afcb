import pytest

import dila
from dila.data.examples import FOLDER
from dila.demo.clips import read_frames, shelve


@pytest.fixture(scope="session")
def box():
    """The model that comes with the package."""
    return dila.load("box", "cpu")


@pytest.fixture(scope="session")
def clips(box):
    """Its example clips as frames, the first twelve of each."""
    return [read_frames(box, path, frames=12) for path in shelve([FOLDER]).paths.values()]
