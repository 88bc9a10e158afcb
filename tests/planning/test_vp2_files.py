"""VP2's task files: a small one in their layout is read, and its episodes are begun."""

import importlib.util
import json
import tracemalloc

import numpy as np
import pytest

from dila.errors import DilaError
from dila.planning.environment import SUCCESS
from dila.planning.vp2_files import WIDTHS, read_tasks

h5py = pytest.importorskip("h5py")
DESK, THINGS = WIDTHS
pytestmark = pytest.mark.filterwarnings("ignore")  # of the simulator's own packages


def write_tasks(path, episodes, start=None):
    """As robomimic's scripts write them for VP2: numbered from 1, pictures beside the states."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "RoboDesk"})
        data.attrs["total"] = sum(map(len, episodes))
        for number, states in enumerate(episodes, 1):
            demo = data.create_group(f"demo_{number}")
            demo["states"], demo["actions"] = states, np.zeros((len(states), 5))
            demo["obs/camera_image"] = np.zeros((len(states), 64, 64, 3), dtype=np.uint8)
            if start is not None:
                demo["start_index"] = start
    return path


def test_episodes_are_read_in_their_order_from_start_to_last(tmp_path):
    episodes = [np.full((3, DESK), number) + np.arange(3.0)[:, None] for number in range(12)]
    tasks = read_tasks(write_tasks(tmp_path / "goals.hdf5", episodes))
    assert [task.start[0] for task in tasks] == list(range(12))
    assert [task.goal[0] for task in tasks] == list(range(2, 14))
    later = read_tasks(write_tasks(tmp_path / "later.hdf5", episodes, start=1))
    assert later[0].start[0] == 1


def test_what_is_no_task_file_is_refused(tmp_path):
    with pytest.raises(DilaError, match=r"--goals: .*none\.hdf5 does not exist"):
        read_tasks(tmp_path / "none.hdf5")
    with pytest.raises(
        DilaError, match=r"states must be RoboDesk's T x 76 and robosuite's T x 71 .* shape is \[3, 45\]"
    ):
        read_tasks(write_tasks(tmp_path / "robosuite.hdf5", [np.zeros((3, 45))]))
    with pytest.raises(DilaError, match="start_index is 7, but there are 3 states"):
        read_tasks(write_tasks(tmp_path / "start.hdf5", [np.zeros((3, DESK))], start=7))
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    with pytest.raises(DilaError, match="not a task file of VP2"):
        read_tasks(tmp_path / "empty.hdf5")


def test_a_hostile_task_file_exhausts_no_memory_and_shows_no_other_file(tmp_path):
    """A few kilobytes may declare any number of states, and name any file of the user's."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones((2, DESK)).tobytes())
    hostile = {
        "huge": ({"shape": (10**9, DESK), "chunks": (1, DESK)}, "declares 1,000,000,000 frames"),
        "wide": ({"shape": (3, DESK), "chunks": (10**7, DESK), "maxshape": (None, DESK)}, "rows or chunks of"),
        "external": ({"shape": (2, DESK), "external": [(str(secret), 0, 2 * DESK * 8)]}, "stored in another file"),
    }
    for name, (stored, told) in hostile.items():
        path = tmp_path / f"{name}.hdf5"
        with h5py.File(path, "w") as file:
            file.create_dataset("data/demo_1/states", dtype="f8", **stored)
        assert path.stat().st_size < 20_000
        with pytest.raises(DilaError, match=told):
            read_tasks(path)
    with h5py.File(tmp_path / "linked.hdf5", "w") as file:
        file["data/demo_1/states"] = h5py.ExternalLink(tmp_path / "tasks.hdf5", "data/demo_1/states")
    write_tasks(tmp_path / "tasks.hdf5", [np.zeros((2, DESK))])
    with pytest.raises(DilaError, match="too many links"):  # h5py follows none from an open file object
        read_tasks(tmp_path / "linked.hdf5")


def test_only_the_start_and_the_goal_are_read(tmp_path):
    path = tmp_path / "long.hdf5"
    with h5py.File(path, "w") as file:
        states = file.create_dataset("data/demo_1/states", (300_000, DESK), "f8", chunks=(1, DESK))
        states[7], states[-1] = 1.0, 2.0
        file["data/demo_1/start_index"] = 7
    tracemalloc.start()
    (task,) = read_tasks(path)
    assert tracemalloc.get_traced_memory()[1] < 1e7, "182 MB are declared"
    tracemalloc.stop()
    assert (task.start == 1).all()
    assert (task.goal == 2).all()


def vp2_state(body):
    """The state as VP2's wrapper of RoboDesk concatenates it."""
    data, hand = body.simulator.physics.data, body.simulator.position()
    return np.concatenate([data.qpos[:9], data.qvel[:9], data.qpos[9:], data.qvel[9:], hand])


@pytest.mark.skipif(importlib.util.find_spec("robodesk") is None, reason="robodesk is not installed")
def test_an_environment_begins_and_ends_where_the_file_says(tmp_path):
    from dila.planning.environments import make_environment

    own = make_environment("robodesk-push-red", 0.2, 32)
    states = []
    for seed in (0, 1):
        staged = own.task.stage(own.body, np.random.default_rng(seed))
        for snapshot in (staged.start, staged.goal):
            own.body.restore(snapshot)
            states.append(vp2_state(own.body))
    own.close()
    tasks = read_tasks(write_tasks(tmp_path / "goals.hdf5", [np.stack(states[:2]), np.stack(states[2:])]))
    environment = make_environment("robodesk-push-red", 0.2, 32, tasks)
    for seed in (0, 1, 3):
        picture, info = environment.reset(seed=seed)
        np.testing.assert_allclose(vp2_state(environment.body), states[2 * (seed % 2)], atol=1e-9)
        assert info["score"] > SUCCESS
        assert not (picture == info["goal"]).all()
    goal, lights = environment.goal, slice(38, 41)
    environment.body.put(states[3])
    np.testing.assert_allclose(environment.body.facts()[lights], goal[lights])
    assert environment.score() < SUCCESS
    environment.close()


@pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="robosuite is not installed")
def test_robosuites_states_are_those_of_vp2s_scene(tmp_path):
    """Time, positions of arm, fingers, box, small box, cylinder and ball, and speeds."""
    from dila.planning.environments import make_environment

    places = np.array([[0.0, -0.1, 0.86], [0.2, -0.1, 0.84], [0.0, 0.1, 0.86], [0.2, 0.1, 0.87]])
    arm = [0, np.pi / 16, 0, -np.pi / 2 - np.pi / 3, 0, np.pi - 0.2, np.pi / 4, 0.02, -0.02]
    states = np.zeros((2, THINGS))
    for state, moved in zip(states, (0.0, 0.1), strict=True):
        things = np.hstack([places, np.tile([1.0, 0, 0, 0], (4, 1))])
        things[2, 0] += moved
        state[:38] = [0.2, *arm, *things.ravel()]
    tasks = read_tasks(write_tasks(tmp_path / "rendered_256.hdf5", [states]))
    environment = make_environment("robosuite-vp2", 0.2, 32, tasks)
    _, info = environment.reset(seed=0)
    names = environment.body.simulator.names["state"]
    facts = dict(zip(names, environment.body.facts(), strict=True))
    for thing, place in zip(("box", "small_box", "cylinder", "ball"), places, strict=True):
        assert [facts[f"{thing}_{axis}"] for axis in "xyz"] == pytest.approx(place)
    assert facts["finger_left"] == pytest.approx(0.02)
    assert info["score"] == pytest.approx(0.1)
    rest = environment.body.facts()
    environment.advance(np.array([0, 0, 0, 0.0]))
    assert np.abs(environment.body.facts() - rest)[:3].max() < 0.01, "the arm does not hold its place"
    environment.close()
    desk = read_tasks(write_tasks(tmp_path / "goals.hdf5", [np.zeros((2, DESK))]))
    with pytest.raises(DilaError, match="contains states of RoboDesk, not of robosuite-vp2"):
        make_environment("robosuite-vp2", 0.2, 32, desk)


def test_other_simulators_take_no_such_file(tmp_path):
    pytest.importorskip("gym_pusht")
    from dila.planning.environments import make_environment

    tasks = read_tasks(write_tasks(tmp_path / "goals.hdf5", [np.zeros((2, DESK))]))
    with pytest.raises(DilaError, match=r"robodesk-\.\.\. and robosuite-vp2, not for pusht-push"):
        make_environment("pusht-push", 0.2, 32, tasks)
