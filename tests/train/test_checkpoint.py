import random
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from train_world import PatchEncoder, small_model

from dila.errors import DilaError
from dila.interop.find import find_pretrained
from dila.interop.pretrained import Pretrained
from dila.model.dila import DiLA
from dila.train.checkpoint import (
    TrainerState,
    load_trainer,
    newest,
    own_random_state,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def save(out, step, keep=5, random=None):
    pretrained = Pretrained(DiLA(small_model()), PatchEncoder(), None, 0.2, 4)
    state = TrainerState(step, 0, {"state": {}}, {"used": 4}, [random or random_state()], {}, "data", [])
    return save_checkpoint(out, pretrained, state, keep, {})


def draws():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random(), random.gauss(0, 1)


def test_two_threads_do_not_draw_from_one_generator():
    def second():
        with own_random_state():
            pytest.fail("it was let in")

    told = "another thread of this process is training"
    with ThreadPoolExecutor(1) as threads, own_random_state(), own_random_state(), pytest.raises(DilaError, match=told):
        threads.submit(second).result()


def test_random_states_go_through_a_checkpoint(tmp_path):
    random.gauss(0, 1)  # leaves its twin in Python's generator
    np.random.randn()
    state = random_state()
    first = draws()
    folder = save(tmp_path, 1, random=state)
    restore_random_state(load_trainer(folder).random[0])
    assert draws() == first


def test_the_newest_is_the_highest_number_and_never_half_a_one(tmp_path):
    assert newest(tmp_path) is None
    save(tmp_path, 9)
    last = save(tmp_path, 10)
    (tmp_path / "checkpoints" / ".step_0000011.partial").mkdir()
    shutil.copytree(last, tmp_path / "checkpoints" / "step_99")  # by hand
    assert newest(tmp_path) == last == find_pretrained(tmp_path)
    save(tmp_path, 11, keep=2)
    left = [path.name for path in sorted((tmp_path / "checkpoints").glob("[!.]*"))]
    assert left == ["step_0000010", "step_0000011", "step_99"]


def test_a_kill_while_writing_leaves_no_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    assert newest(tmp_path).name == "step_0000001"
    assert save(tmp_path, 2) == newest(tmp_path)


def test_a_damaged_trainer_state_is_named(tmp_path):
    folder = save(tmp_path, 1)
    (folder / "trainer.pt").write_bytes(b"no")
    with pytest.raises(DilaError, match=r"trainer\.pt cannot be loaded"):
        load_trainer(folder)
