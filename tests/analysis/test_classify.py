import pytest
import torch

from dila.analysis.classify import classify
from dila.errors import DilaError


def data(noise):
    episode = torch.arange(40).repeat_interleave(5)
    label = torch.tensor([3, 7, 9])[episode % 3]
    centres = torch.randn(10, 6)
    return centres[label] + noise * torch.randn(200, 6), label, episode, episode >= 28


def test_a_class_that_is_there_is_told():
    told = classify(*data(0.05))
    assert (told.above_chance, told.interval, told.rows) == (1, (1, 1), 60)


def test_a_class_that_is_not_there_is_guessed_at_chance():
    _, label, episode, held = data(0.05)
    told = classify(torch.randn(200, 6), label, episode, held)
    assert abs(told.above_chance) < 0.3
    assert told.interval.low <= told.above_chance <= told.interval.high


def test_classes_that_training_never_saw_are_left_out():
    x, label, episode, held = data(0.05)
    label = torch.where(episode >= 36, 11, label)
    assert classify(x, label, episode, held).rows == 40
    with pytest.raises(DilaError, match="training classes"):
        classify(x, torch.ones_like(label), episode, held)
