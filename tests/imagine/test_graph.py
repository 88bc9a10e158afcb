"""On a GPU; elsewhere the one test is of the refusal."""

import gc

import pytest
import torch

from dila.errors import DilaError
from dila.imagine.graph import Graphed
from dila.imagine.rollout import rollout


def test_tensors_off_the_gpu_are_refused():
    with pytest.raises(DilaError, match="CUDA tensors"):
        Graphed(torch.sin, torch.zeros(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")
def test_a_replayed_rollout_is_the_rollout_whatever_the_inputs_and_weights(small_config, awake, clip):
    model, e = awake(small_config).cuda().eval(), clip(2).cuda()
    z = torch.randn(len(e), 3, model.config.action_dim, device="cuda")
    replayed = Graphed(lambda e, z: rollout(model, e, z), e, z)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
        e, z = torch.randn_like(e), torch.randn_like(z)
        torch.testing.assert_close(replayed(e, z), rollout(model, e, z), atol=1e-4, rtol=1e-4)
    with pytest.raises(DilaError, match="record it again"):
        replayed(e[:1], z[:1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are CUDA's")
def test_a_graph_keeps_what_it_was_recorded_of():
    def recorded(x):
        weight = torch.randn(512, 512, device="cuda")
        return Graphed(lambda x: x @ weight, x), x @ weight

    x = torch.randn(512, 512, device="cuda")
    replayed, expected = recorded(x)
    gc.collect()
    torch.randn(4, 512, 512, device="cuda")  # where the weight lay
    torch.testing.assert_close(replayed(x), expected)
