import atexit
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch

from dila.data import simulators
from dila.data.lerobot_write import CAMERA
from dila.data.recording import VideoFolder
from dila.data.sim_pointmaze import PointMaze
from dila.data.simulators import SIMULATORS, Driver, Leg, SimulatorRecorder, moved, open_simulator, record_simulator
from dila.errors import DilaError, MissingExtra

PACKAGES = {"fetch": "gymnasium_robotics", "kitchen": "gymnasium_robotics", "pointmaze": "gymnasium_robotics",
            "robosuite-lift": "robosuite", "robosuite-push": "robosuite", "robosuite-vp2": "robosuite",
            "robodesk": "robodesk",
            "miniworld": "miniworld"}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore")  # of the simulators' own packages


SLOW = ("robosuite-push", "robosuite-vp2")
# MiniWorld's drawing and MuJoCo's do not get on in one process.
ALONE = "miniworld"
CHOSEN = [os.environ["DILA_TEST_SIMULATOR"]] if "DILA_TEST_SIMULATOR" in os.environ else set(SIMULATORS) - {ALONE}


@pytest.fixture(scope="module", params=[
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(CHOSEN)
])  # fmt: skip
def name(request):
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"{PACKAGES[request.param]} is not installed")
    return request.param


@pytest.fixture(scope="module")
def episode(name):
    return SimulatorRecorder(name, 8, 48, 3, "scripted")(1)


def test_an_episode_is_named_bounded_and_seen(name, episode):
    simulator = open_simulator(name)
    assert episode.frames.shape == (8, 3, 48, 48)
    assert episode.frames.float().std(dim=(-1, -2)).min() > 5, "a picture is blank"
    assert not torch.equal(episode.frames[0], episode.frames[-1])
    for key, parts in simulator.names.items():
        assert episode.columns[key].shape == (8, len(parts))
        assert episode.columns[key].dtype == np.float32
        assert np.isfinite(episode.columns[key]).all()
    assert np.abs(episode.columns["action"]).max() <= 1
    assert set(simulator.things) <= set(simulator.names["state"])


def test_recorded_actions_are_what_was_done(name, episode):
    """From the same start, the recorded actions alone lead through the recorded states: row f from f to f+1."""
    simulator = open_simulator(name)
    simulator.reset(np.random.default_rng([3, 1]))
    for action, state in zip(episode.columns["action"], episode.columns["state"], strict=True):
        np.testing.assert_array_equal(simulator.state().astype(np.float32), state)
        simulator.step(action)


def test_an_episode_does_not_depend_on_the_one_before(name, episode):
    SimulatorRecorder(name, 3, 48, 9, "random")(5)
    again = SimulatorRecorder(name, 8, 48, 3, "scripted")(1)
    assert torch.equal(again.frames, episode.frames)
    for key, values in episode.columns.items():
        np.testing.assert_array_equal(again.columns[key], values)
    other = SimulatorRecorder(name, 2, 48, 3, "scripted")(2)
    assert not np.array_equal(other.columns["state"], episode.columns["state"][:2])


@pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="robosuite is not installed")
def test_the_same_cube_in_every_process():
    """Lift draws the size of its cube when it is built: recordings of several processes mixed sizes."""
    from dila.data.sim_robosuite import Lift

    sizes = []
    for seed in (1, 2):
        np.random.seed(seed)
        sizes.append(Lift().env.sim.model.geom_size.copy())
    np.testing.assert_array_equal(*sizes)


@pytest.mark.skipif("DILA_TEST_SIMULATOR" in os.environ, reason="is what runs")
def test_miniworld_in_a_process_of_its_own():
    pytest.importorskip("pyglet")
    command = [sys.executable, "-m", "pytest", __file__, "-k", "test_an_episode or test_recorded_actions"]
    done = subprocess.run(command, env=os.environ | {"DILA_TEST_SIMULATOR": ALONE}, capture_output=True, text=True)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


class Marble:
    """A point on a plane that goes where it is told: what the driver and the recorder are tested with."""

    fps, task, reach, wander = 10, "roll", 0.1, 0.5
    names = {"action": ("dx", "dy"), "state": ("x", "y")}  # noqa: RUF012
    things = {"x": 0.5}  # noqa: RUF012

    def reset(self, rng):
        self.at = rng.normal(size=2)

    def state(self):
        return self.at.copy()

    def picture(self, size):
        return torch.full((3, size, size), int(abs(self.at[0]) * 50) % 256, dtype=torch.uint8)

    def step(self, action):
        self.at = self.at + 0.2 * action

    def position(self):
        return self.at

    def plan(self, rng):
        goal = rng.uniform(-1, 1, 2)
        return [Leg(lambda: goal, 40), Leg(lambda: goal, 3, 0.1, stay=True)]

    def towards(self, gap, leg):
        return gap * min(1.0, leg.speed / np.linalg.norm(gap))

    def close(self):
        pass

    def strays(self):
        return np.zeros(2) if np.abs(self.at).max() > 2 else None


@pytest.fixture
def marble(monkeypatch):
    monkeypatch.setattr(simulators, "open_simulator", lambda name: Marble())


@pytest.mark.usefixtures("marble")
def test_policies_differ_in_what_they_reach():
    wide = {policy: SimulatorRecorder("m", 200, 32, 0, policy)(0).columns for policy in ("random", "scripted")}
    assert np.abs(wide["random"]["state"]).max() < 3, "noise alone does not leave the scene"
    calm = wide["random"]["action"]
    assert np.diff(calm, axis=0).std() < 0.9 * calm.std(), "noise is smooth"
    marble = Marble()
    marble.reset(np.random.default_rng(1))
    driver = Driver(marble, np.random.default_rng(0), "scripted")
    reached = 0
    for _ in range(100):
        marble.step(driver.action())
        reached += driver.legs[0].stay
    assert reached > 10


@pytest.mark.usefixtures("marble")
def test_a_recording_is_a_lerobot_data_set_or_a_folder(tmp_path):
    import json

    out = record_simulator("m", tmp_path / "a", 2, frames=4, size=32, progress=False)
    info = json.loads((out / "meta" / "info.json").read_text())
    assert info["features"]["action"]["names"] == ["dx", "dy"]
    assert info["features"][CAMERA]["shape"] == [32, 32, 3]
    assert (info["total_episodes"], info["fps"]) == (2, 10)
    record_simulator("m", tmp_path / "b", 2, frames=4, size=32, progress=False, store=VideoFolder())
    assert (tmp_path / "b" / "actions.parquet").is_file()


def test_workers_and_interruptions_change_nothing(tmp_path):
    pytest.importorskip("gymnasium_robotics")
    for out, workers, steps in ((tmp_path / "1", 1, [2, 3]), (tmp_path / "2", 2, [3])):
        for episodes in steps:
            record_simulator("pointmaze", out, episodes, frames=4, size=32, workers=workers, progress=False)
    import pyarrow.parquet as pq

    tables = [
        [pq.read_table(path).drop_columns(["index"]) for path in sorted((tmp_path / run / "data").glob("*/*.parquet"))]
        for run in ("1", "2")
    ]
    import pyarrow as pa

    assert pa.concat_tables(tables[0]).equals(pa.concat_tables(tables[1]))


def test_moving_is_measured_by_the_things():
    states = np.zeros((3, 2))
    assert not moved(Marble(), states + np.array([[0], [0.4], [0.1]]))
    assert moved(Marble(), states + np.array([[0], [0.6], [0.1]]))


def test_nonsense_and_missing_simulators_are_told(tmp_path, monkeypatch):
    for bad in ({"frames": 1}, {"size": 33}, {"size": 1024}, {"policy": "best"}):
        with pytest.raises(DilaError):
            record_simulator("fetch", tmp_path, 1, progress=False, **bad)
    with pytest.raises(DilaError, match="no simulator 'chess'"):
        record_simulator("chess", tmp_path, 1, progress=False)
    simulators.close_simulator()
    for name, package in PACKAGES.items():
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtra, match=r"dila-wm\[sim\]"):
            record_simulator(name, tmp_path, 1, progress=False)


def test_what_no_newer_python_has_is_told(monkeypatch):
    simulators.close_simulator()
    monkeypatch.setitem(sys.modules, "robodesk", None)
    for version, words in (((3, 12, 1), "install it with: pip"), ((3, 13, 0), "under Python 3.12, the newest version")):
        monkeypatch.setattr(sys, "version_info", version)
        with pytest.raises(MissingExtra, match=words):
            open_simulator("robodesk")


@pytest.mark.slow
@pytest.mark.parametrize("sim", [name for name in SIMULATORS if name not in ("pointmaze", "miniworld")])
def test_scripted_policies_move_things(sim):
    pytest.importorskip(PACKAGES[sim])
    simulator = open_simulator(sim)
    shares = [moved(simulator, SimulatorRecorder(sim, 60, 32, 0, "scripted")(i).columns["state"]) for i in range(20)]
    assert np.mean(shares) >= 0.6


@pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None, reason="gymnasium_robotics is not installed"
)
def test_the_point_maze_leaves_no_file_and_one_handler(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers = []
    monkeypatch.setattr(atexit, "register", lambda handler, *more: handlers.append(handler))
    monkeypatch.setattr(atexit, "unregister", lambda handler: handlers.remove(handler))
    simulator = PointMaze()
    assert not any(tmp_path.iterdir())
    simulator.reset(np.random.default_rng(0))
    for size in (16, 32, 16):
        assert simulator.picture(size).shape == (3, size, size)
    assert [h.__name__ for h in handlers if inspect.ismethod(h)] == ["close"]
    simulator.close()
    assert not any(map(inspect.ismethod, handlers))
