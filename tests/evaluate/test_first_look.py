"""The two numbers to look at first."""

import math

import numpy as np
import pytest
import torch

from dila.errors import DilaError
from dila.evaluate.factors import components
from dila.evaluate.first_look import measure_rollouts, measure_z_probe
from dila.evaluate.probing import gather
from dila.imagine.world import World


class Turning:
    """Features are an angle that goes on and on, true states the same angle within one turn."""

    def __init__(self, number):
        draws = np.random.default_rng(number).uniform(-1, 1, 40)
        self.angle = draws.cumsum()
        self.id, self.times = f"{number}.mp4", np.arange(40) / 10
        self.columns = {"state": ((self.angle + math.pi) % (2 * math.pi) - math.pi)[:, None]}

    def read(self, frames):
        return torch.tensor(self.angle[list(frames)]).float()[:, None, None, None]

    def fingerprint(self):
        return "none"


class Seeing:
    """z is the change of features."""

    def infer(self, e):
        return (e[:, 1:] - e[:, :-1]).mean((2, 3))

    def start(self, e):
        return e[:, -1]

    def step(self, state, z):
        return state, state


def test_transitions_that_are_not_known_are_left_out(bench):
    world = World(Seeing(), bench.world.encoder, None, 0.1, 8)
    train, held = [Turning(i) for i in range(8)], [Turning(i) for i in range(8, 12)]
    yaw = components("state", (), 1, {"state": ("yaw",)})
    rows = measure_z_probe(world, train, held, yaw).test_rows
    for episode in (train[2], held[1]):
        episode.columns["state"][5] = math.nan
    told = measure_z_probe(world, train, held, yaw)
    assert told.r2 > 0.999
    assert told.test_rows == rows - 2
    for episode in held:
        episode.columns["state"][:] = math.nan
    with pytest.raises(DilaError, match="column 'state' has no known value of yaw in any transition"):
        measure_z_probe(world, train, held, yaw)


def test_a_known_angle_changes_the_shorter_way_round(bench):
    world = World(Seeing(), bench.world.encoder, None, 0.1, 8)
    train, held = [Turning(i) for i in range(8)], [Turning(i) for i in range(8, 12)]
    known = measure_z_probe(world, train, held, components("state", (), 1, {"state": ("yaw",)}))
    unknown = measure_z_probe(world, train, held, components("state", (), 1, {}))
    assert known.r2 > 0.999
    assert unknown.r2 < 0.9


@pytest.mark.parametrize("frames", [4, 7, 8])
def test_each_transition_counts_once(bench, frames):
    """Frames of a window are two raw ones apart here, and a hop is of raw frames."""
    world = World(Seeing(), bench.world.encoder, None, 0.2, frames)
    yaw = components("state", (), 1, {"state": ("yaw",)})
    rows = gather(world, [Turning(0), Turning(1)], yaw, 1000, {"angle": lambda clip: clip.frames[:, :-1].flatten()})
    angles = rows.x["angle"].tolist()
    assert len(set(angles)) == len(angles) == len(rows.y) > 30


class Whole(Seeing):
    """z says how many frames were read at once; steps change nothing."""

    def infer(self, e):
        return torch.full((len(e), e.shape[1] - 1, 1), float(e.shape[1]))

    def step(self, state, z):
        assert (z == 8).all()
        return state, state


def test_rollouts_infer_no_more_frames_at_once_than_the_model_was_trained_on(bench):
    told = measure_rollouts(World(Whole(), bench.world.encoder, None, 0.1, 8), [Turning(i) for i in range(3)])
    assert (told.pooled, told.one_step, told.first_step) == pytest.approx((1, 1, 1))
    assert len(told.by_horizon) == 8
