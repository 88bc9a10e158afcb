"""Verbs over videos with models that lack a part: they work, or refuse in a sentence."""

from dataclasses import replace

import pytest
import torch

from dila.errors import DilaError
from dila.imagine.world import World
from dila.model.config import Discrete, NoAction, NoContent


@pytest.fixture
def world(model, encoder, decoder, awake):
    return lambda **changes: World(awake(replace(model.config, **changes)), encoder, decoder)


@pytest.fixture
def frames(frames_of):
    return frames_of(5)


def test_without_content_there_is_nothing_to_rebind_or_isolate(world, frames):
    without = world(content=NoContent())
    assert without.rollout(frames).shape == (4, 4, 4, 12)
    assert without.transfer(frames, frames).e.shape[-1] == 12
    with pytest.raises(DilaError, match=r"rebind needs a model with content, but this one was trained with content"):
        without.rebind(frames, frames)
    with pytest.raises(DilaError, match="isolate needs a model with content"):
        without.isolate(frames)


def test_without_actions_there_is_nothing_to_infer_or_follow(world, frames):
    without = world(bottleneck=NoAction())
    assert without.rebind(frames, frames).e.shape == without.isolate(frames).e.shape == (4, 4, 4, 12)
    for verb in (without.infer, without.rollout, lambda video: without.transfer(video, video)):
        with pytest.raises(DilaError, match="trained without latent actions"):
            verb(frames)


def test_discrete_actions_are_inferred_and_followed(world, frames):
    discrete = world(bottleneck=Discrete(codes=4, tokens=2))
    z = discrete.infer(frames)
    torch.testing.assert_close(discrete.rollout(frames, z), discrete.rollout(frames))
