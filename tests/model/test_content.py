from dataclasses import replace

import pytest
import torch

from dila.model.config import DiLAConfig, MemoryConfig, Quirks
from dila.model.content import ContentMemory

LATE = 15


def in_pieces(memory, c, chunk):
    state, parts = None, []
    for piece in c.split(chunk, 1):
        c_mem, state = memory(piece, state)
        parts.append(c_mem)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_in_pieces_equals_at_once(small_config, chunk):
    memory, c = ContentMemory(small_config), torch.randn(2, 7, 4, 6, 16)
    torch.testing.assert_close(in_pieces(memory, c, chunk), memory(c)[0], atol=1e-5, rtol=0)


def test_in_pieces_is_off_with_the_released_quirk(small_config):
    memory = ContentMemory(replace(small_config, quirks=Quirks(forget_conv_window=True)))
    c = torch.randn(2, 7, 4, 6, 16)
    assert (in_pieces(memory, c, 1) - memory(c)[0]).abs().max() > 1e-2


def test_patches_are_independent(small_config):
    memory, c = ContentMemory(small_config), torch.randn(1, 4, 4, 6, 16)
    changed = c.clone()
    changed[:, :, 2, 3] += 1
    differs = (memory(changed)[0] - memory(c)[0]).abs().amax((0, 1, 4)) > 0
    assert differs.nonzero().tolist() == [[2, 3]]


@pytest.fixture
def memory():
    return ContentMemory(DiLAConfig(content_dim=64, memory=MemoryConfig(state_dim=16)))


def reach(memory: ContentMemory) -> torch.Tensor:
    """Gradient of c_mem[15] with respect to the content of each frame, in units of that of frame 15 itself."""
    c = torch.randn(4, LATE + 1, 2, 2, 64, requires_grad=True)
    direction = torch.randn_like(c[:, LATE])
    (gradient,) = torch.autograd.grad((memory(c)[0][:, LATE] * direction).sum(), c)
    size = gradient.transpose(0, 1).flatten(1).norm(dim=1)
    return size / size[LATE]


def test_first_frame_reaches_the_sixteenth_at_initialisation(memory):
    seen = reach(memory)
    assert seen[0] > 1e-5
    assert seen[0] / seen[8] > 0.2, "what the convolutions no longer see, the state must hold"


def test_first_frame_does_not_reach_the_sixteenth_after_the_released_re_initialisation(memory):
    for module in memory.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        if isinstance(module, torch.nn.Conv1d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out")
            torch.nn.init.zeros_(module.bias)
    seen = reach(memory)
    assert seen[0] < 1e-7
    assert seen[0] / seen[8] < 0.02
