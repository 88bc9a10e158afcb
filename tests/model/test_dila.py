from dataclasses import replace

import pytest
import torch

from dila.errors import DilaError
from dila.imagine.layout import Layout
from dila.imagine.rollout import rollout, steps
from dila.model.config import Quirks
from dila.model.dila import DiLA, count_parameters, repeat_state
from dila.protocols import LatentActionModel


@pytest.fixture
def model(small_config, awake):
    return awake(small_config)


@pytest.fixture
def wide(small_config, awake):
    """A model whose backbone has its own width and whose first frames are padded with themselves."""
    decoder = replace(small_config.decoder, predicts="change")
    return awake(replace(small_config, width=32, time_padding="replicate", decoder=decoder))


def test_has_the_verbs_of_a_latent_action_model(model):
    assert isinstance(model, LatentActionModel)


def test_latent_action_k_moves_frame_k_to_frame_k_plus_one(model, clip):
    """The alignment stated in `dila.shapes`."""
    e = clip(5)
    out = model(e)
    assert out.z.shape == (2, 4, 8)
    assert out.e_hat.shape == (2, 4, 4, 6, 24)
    torch.testing.assert_close(out.s_hat, out.s[:, :-1] + out.ds_hat)
    z = out.z.clone()
    z[:, 2] += 1
    moved = model.predict(model.observe(e), e, z)
    assert ((moved.s_hat - out.s_hat).abs().amax((0, 2, 3, 4)) > 1e-6).tolist() == [False, False, True, True]


def forced(model, e, context, z):
    """Frames after the context from a latent rollout that is told each true frame after it has guessed it."""
    seen, state = model.observe(e), model.start(e[:, :context], z[:, : context - 1])
    s_hat, e_hat, c_mem = [], [], [state.c_mem]
    for k in range(context - 1, z.shape[1]):
        state, s, drawn = model.imagine(state, z[:, k])
        state = model.absorb(state, e[:, k + 1], seen.s[:, k + 1])
        s_hat.append(s)
        e_hat.append(drawn)
        c_mem.append(state.c_mem)
    return torch.stack(s_hat, 1), torch.stack(e_hat, 1), torch.stack(c_mem, 1)


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("which", ["model", "wide"])
def test_rollout_told_the_true_frames_equals_teacher_forcing(which, context, clip, request):
    model, e = request.getfixturevalue(which), clip(6)
    with torch.no_grad():
        out = model(e)
        s_hat, e_hat, c_mem = forced(model, e, context, out.z)
    torch.testing.assert_close(s_hat, out.s_hat[:, context - 1 :], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(e_hat, out.e_hat[:, context - 1 :], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(c_mem, out.c_mem[:, context - 1 :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("quirk", ["single_frame_rollout", "forget_conv_window"])
def test_with_a_released_quirk_it_does_not(small_config, awake, clip, quirk):
    model, e = awake(replace(small_config, quirks=Quirks(**{quirk: True}))), clip(6)
    with torch.no_grad():
        out = model(e)
        _, e_hat, c_mem = forced(model, e, 1, out.z)
    assert (c_mem - out.c_mem).abs().max() > 1e-3
    assert (e_hat - out.e_hat).abs().max() > 1e-3


def test_structure_read_from_the_true_frame_equals_the_clips(model, clip):
    e = clip(4)
    seen, state = model.observe(e), model.start(e[:, :3])
    torch.testing.assert_close(model.absorb(state, e[:, 3]).s, seen.s[:, 3], atol=1e-5, rtol=1e-5)


def test_latent_actions_ask_nothing_of_content(model, clip, monkeypatch):
    e = clip(3)
    torch.testing.assert_close(model.read(e), model.observe(e).s)
    for part in (model.content, model.memory, model.decoder):
        monkeypatch.setattr(part, "forward", lambda *_: pytest.fail("not needed for z"))
    assert model.infer(e).shape[:2] == (2, 2)


def test_a_longer_context_is_the_same_as_reading_it_on(model, clip):
    e = clip(5)
    z = model.infer(e)
    at_once = model.start(e, z)
    state = model.start(e[:, :1])
    for k in range(4):
        state, _, _ = model.imagine(state, z[:, k])
        state = model.absorb(state, e[:, k + 1])
    for mine, theirs in zip(_tensors(state), _tensors(at_once), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def test_the_future_changes_no_past(model, clip):
    e, z = clip(6), torch.randn(2, 5, 8)
    changed = torch.cat([e[:, :4], clip(2)], 1)
    with torch.no_grad():
        seen, seen_changed = model.observe(e), model.observe(changed)
        out, out_changed = model.predict(seen, e, z), model.predict(seen_changed, changed, z)
    for mine, theirs in zip(seen, seen_changed, strict=True):  # s, c and c_mem of frames 0..3
        torch.testing.assert_close(theirs[:, :4], mine[:, :4], atol=1e-6, rtol=0)
        assert not torch.allclose(theirs[:, 4:], mine[:, 4:])
    for name in ("ds_hat", "s_hat", "e_hat"):  # predictions of frames 1..4 are made from frames 0..3
        mine, theirs = getattr(out, name), getattr(out_changed, name)
        torch.testing.assert_close(theirs[:, :4], mine[:, :4], atol=1e-6, rtol=0)
        assert not torch.allclose(theirs[:, 4:], mine[:, 4:])


def test_a_later_action_changes_no_earlier_prediction(model, clip):
    e, z = clip(4), torch.randn(2, 5, 8)
    changed = z.clone()
    changed[:, 3:] += 1
    with torch.no_grad():
        drawn, redrawn = rollout(model, e, z), rollout(model, e, changed)
    assert drawn.shape == (2, 5, 4, 6, 24)
    torch.testing.assert_close(redrawn[:, :3], drawn[:, :3], atol=0, rtol=0)
    assert not torch.allclose(redrawn[:, 3:], drawn[:, 3:])


@pytest.mark.parametrize("pairwise", [True, False])
def test_action_of_two_frames_of_a_clip(small_config, awake, clip, pairwise):
    model = awake(replace(small_config, idm=replace(small_config.idm, pairwise=pairwise)))
    e = clip(5)
    whole, pair = model.infer(e)[:, :1], model.infer(e[:, :2])
    assert torch.allclose(whole, pair, atol=1e-5) == pairwise


def test_context_actions_that_are_known_are_not_inferred(model, clip):
    e = clip(3)
    inferred, given = model.start(e), model.start(e, torch.randn(2, 2, 8))
    torch.testing.assert_close(inferred.s, given.s)
    assert not torch.allclose(inferred.fdm[0].attention.keys, given.fdm[0].attention.keys)


def test_copies_of_a_state_stand_side_by_side_and_move_alone(model, clip):
    state, z = model.start(clip(3)), torch.randn(6, 2, 8)
    together = [drawn for _, drawn in steps(model, repeat_state(state, 3), z)]
    for i in range(6):
        alone = _pick(state, i // 3)
        for drawn, (_, expected) in zip(together, steps(model, alone, z[i : i + 1]), strict=True):
            torch.testing.assert_close(drawn[i : i + 1], expected, atol=1e-5, rtol=1e-5)


def test_repeating_a_quirky_state_keeps_its_missing_parts(small_config, clip):
    model = DiLA(replace(small_config, quirks=Quirks(single_frame_rollout=True)))
    state = repeat_state(model.start(clip(2)), 4)
    assert state.fdm is None
    assert state.decoder is None
    assert {tensor.shape[0] for tensor in _tensors(state)} == {8}


def test_every_tensor_of_a_state_is_led_by_the_batch(model, clip):
    assert {tensor.shape[0] for tensor in _tensors(model.start(clip(3, batch=5)))} == {5}


def test_state_is_an_explicit_carry(model, clip):
    state, z = model.start(clip(2)), torch.randn(2, 8)
    _, first = model.step(state, z)
    model.step(state, torch.randn(2, 8))
    _, again = model.step(state, z)
    torch.testing.assert_close(again, first, atol=0, rtol=0)


@pytest.mark.parametrize("quirks", [Quirks(), Quirks(single_frame_rollout=True, forget_conv_window=True)])
def test_a_step_is_to_imagine_and_to_absorb_what_was_drawn(small_config, awake, clip, quirks):
    model, e, z = awake(replace(small_config, quirks=quirks)), clip(2), torch.randn(2, 4, 8)
    by_hand = model.start(e)
    stepped = list(steps(model, by_hand, z))
    for k, (_, e_hat) in enumerate(stepped):
        by_hand, s_hat, expected = model.imagine(by_hand, z[:, k])
        by_hand = model.absorb(by_hand, expected, s_hat)
        torch.testing.assert_close(e_hat, expected, atol=0, rtol=0)
    for mine, theirs in zip(_tensors(model.caught_up(stepped[-1][0])), _tensors(by_hand), strict=True):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)
    assert model.caught_up(by_hand) is by_hand


def test_the_last_frame_of_a_rollout_is_drawn_and_not_read(model, clip, monkeypatch):
    read, inner = [], model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda e, *past: (read.append(e), inner(e, *past))[1])
    rollout(model, clip(1), torch.randn(2, 3, 8))
    assert len(read) == 3, "the context, and two frames of three"


def test_a_true_frame_takes_the_place_of_the_one_that_was_drawn(model, clip):
    e, z = clip(3), torch.randn(2, 8)
    state = model.start(e[:, :2])
    stepped, _ = model.step(state, z)
    imagined, _, _ = model.imagine(state, z)
    pairs = zip(*(_tensors(model.absorb(each, e[:, 2])) for each in (stepped, imagined)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("frames", [1, 6])
def test_a_state_keeps_no_more_memory_alive_than_it_is(model, clip, frames):
    e = clip(frames)
    with torch.no_grad():
        states = model.start(e), Layout(model).start(e)
    for state in states:
        held = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in _tensors(state)}
        assert sum(held.values()) <= sum(x.nbytes for x in _tensors(state))
    for mine, theirs in zip(_tensors(states[0]), _tensors(model.start(e)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_actions_of_another_width_are_refused(model, clip):
    for each in (model, Layout(model)):
        with pytest.raises(DilaError, match="z has 3 numbers per action, but this model's latent actions have 8"):
            rollout(each, clip(1), torch.randn(2, 3, 3))


def test_every_parameter_takes_part(small_config, awake, clip):
    model = awake(small_config)
    out, a = model(clip(4)), torch.randn(2, 3, 3)
    (out.e_hat.square().mean() + out.ds_hat.square().mean() + model.encode_actions(a).square().mean()).backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []


def test_without_real_actions_there_is_no_action_encoder(small_config):
    model = DiLA(replace(small_config, real_action_dim=None))
    assert count_parameters(DiLA(small_config)) - count_parameters(model) == (3 + 1) * 8 + (8 + 1) * 8
    with pytest.raises(DilaError, match="has no encoder of real actions; adapt it with: dila adapt"):
        model.encode_actions(torch.randn(1, 2, 3))
    with pytest.raises(DilaError, match="actions have 2 numbers, but the model's have 3"):
        DiLA(small_config).encode_actions(torch.randn(1, 2, 2))


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [] if value is None else [tensor for part in value for tensor in _tensors(part)]


def _pick(value, index):
    if isinstance(value, torch.Tensor):
        return value[index : index + 1]
    if value is None:
        return None
    parts = [_pick(part, index) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
