from dataclasses import replace

import pytest
import torch

from dila.imagine.layout import Layout
from dila.imagine.rollout import rollout, steps
from dila.model.config import Quirks
from dila.model.dila import repeat_state
from dila.protocols import LatentActionModel


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("alone", [True, False])
def test_its_structure_is_that_of_the_whole_rollout(small_config, awake, clip, context, alone):
    model = awake(replace(small_config, quirks=Quirks(single_frame_rollout=alone)))
    e, z = clip(context), torch.randn(2, 4, 8)
    whole = torch.stack([state.s for state, _ in steps(model, model.start(e), z)], dim=1)
    torch.testing.assert_close(rollout(Layout(model), e, z), whole, atol=1e-5, rtol=1e-5)


def test_it_infers_what_the_model_infers(small_config, awake, clip):
    model, e = awake(small_config), clip(5)
    assert isinstance(Layout(model), LatentActionModel)
    torch.testing.assert_close(Layout(model).infer(e), model.infer(e))


def test_known_actions_of_the_context_are_not_inferred(small_config, awake, clip):
    layout, e = Layout(awake(small_config)), clip(3)
    z = layout.infer(e)
    mine, theirs = layout.start(e, z), layout.start(e)
    torch.testing.assert_close(mine.fdm[0].attention.keys, theirs.fdm[0].attention.keys)
    assert not torch.allclose(layout.start(e, z + 1).fdm[0].attention.keys, theirs.fdm[0].attention.keys)


def test_candidates_share_a_context(small_config, awake, clip):
    layout, e, z = Layout(awake(small_config)), clip(2, batch=1), torch.randn(5, 3, 8)
    state = repeat_state(layout.start(e), 5)
    shared = torch.stack([s for _, s in steps(layout, state, z)], dim=1)
    torch.testing.assert_close(shared, rollout(layout, e.expand(5, -1, -1, -1, -1), z), atol=1e-5, rtol=1e-5)
