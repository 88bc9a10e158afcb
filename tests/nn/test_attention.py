import pytest
import torch

from dila.nn.attention import LOGIT_SCALE, Attention, _causal_mask


def make(**options) -> Attention:
    attention = Attention(12, 2, 8, **options).eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return attention


def test_space_is_scaled_cosine_attention_of_normalised_queries_and_plain_keys():
    attention, x, bias = make(), torch.randn(2, 3, 5, 12), torch.randn(2, 5, 5)
    q = attention.to_q(attention.norm(x)).unflatten(-1, (2, 8)).transpose(2, 3)
    k, v = (part.unflatten(-1, (2, 8)).transpose(2, 3) for part in attention.to_kv(x).chunk(2, -1))
    q, k = q / q.norm(dim=-1, keepdim=True) * attention.q_scale, k / k.norm(dim=-1, keepdim=True) * attention.k_scale
    weights = (LOGIT_SCALE * torch.einsum("bthnd,bthmd->bthnm", q, k) + bias).softmax(-1)
    expected = attention.to_out((weights @ v).transpose(2, 3).flatten(3))
    torch.testing.assert_close(attention.space(x, bias), expected)


def test_long_sequences_are_the_same_fused_and_not():
    """Without gradients the fused kernel takes them, on a CPU too."""
    attention, x, bias = make(null_tokens=1, context_dim=12), torch.randn(2, 3, 70, 12), torch.randn(2, 70, 70)
    own = make()
    verbs = (
        lambda: own.space(x, bias),
        lambda: attention.across(x, attention.read(x)),
        lambda: attention.across(x, attention.read(x[:, :1])),
    )
    for verb in verbs:
        plain = verb()
        with torch.no_grad():
            torch.testing.assert_close(verb(), plain.detach(), atol=1e-5, rtol=1e-5)


def test_causal_mask_hides_later_frames_alone():
    mask = _causal_mask(2, 5, torch.zeros(1))
    assert mask.isinf().tolist() == [[False, False, False, False, True], [False] * 5]
    assert (mask[~mask.isinf()] == 0).all()


@pytest.mark.parametrize("rope_before_scale", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_time_in_pieces_equals_at_once(chunk, rope_before_scale):
    attention, x = make(rope_before_scale=rope_before_scale), torch.randn(2, 7, 4, 12)
    whole, kept = attention.time(x)
    past, parts = None, []
    for piece in x.split(chunk, dim=1):
        out, past = attention.time(piece, past)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(past.keys, kept.keys, atol=1e-5, rtol=0)


def test_time_does_not_see_the_future():
    attention, x = make(), torch.randn(1, 6, 4, 12)
    changed = torch.cat([x[:, :3], torch.randn(1, 3, 4, 12)], 1)
    torch.testing.assert_close(attention.time(x)[0][:, :3], attention.time(changed)[0][:, :3], atol=0, rtol=0)
    assert not torch.allclose(attention.time(x)[0][:, 3:], attention.time(changed)[0][:, 3:])


def test_rotating_before_the_scales_is_another_function():
    x = torch.randn(1, 4, 3, 12)
    released = make(rope_before_scale=True)
    ours = Attention(12, 2, 8)
    ours.load_state_dict(released.state_dict())
    assert not torch.allclose(ours.time(x)[0], released.time(x)[0], atol=1e-3)


def test_one_shared_context_equals_the_same_context_for_every_frame():
    attention = make(context_dim=10, null_tokens=2)
    x, context = torch.randn(2, 4, 5, 12), torch.randn(2, 1, 7, 10)
    shared = attention.across(x, attention.read(context))
    repeated = attention.across(x, attention.read(context.expand(-1, 4, -1, -1)))
    torch.testing.assert_close(shared, repeated, atol=1e-6, rtol=1e-5)


def test_null_tokens_come_first_keys_in_even_rows_values_in_odd_ones():
    attention = make(context_dim=10, null_tokens=2)
    keys, values = attention.read(torch.randn(3, 1, 7, 10))
    assert keys.shape == values.shape == (3, 1, 2, 9, 8)
    unit = torch.nn.functional.normalize(attention.null_kv[:, 0::2], dim=-1) * attention.k_scale
    torch.testing.assert_close(keys[1, 0, :, :2], unit)
    torch.testing.assert_close(values[1, 0, :, :2], attention.null_kv[:, 1::2])


def test_only_cross_attention_has_a_context_norm():
    assert make().context_norm is None
    assert make(context_dim=10).context_norm is not None


@torch.no_grad()
def test_long_clips_are_read_by_frame_as_they_are_read_at_once():
    layer, x = Attention(16, 2, 8), torch.randn(1, 70, 3, 16)  # longer than from where a fused kernel pays
    past, parts = None, []
    for frame in x.split(1, dim=1):
        out, past = layer.time(frame, past)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, dim=1), layer.time(x)[0], atol=1e-5, rtol=1e-4)
    with torch.enable_grad():
        torch.testing.assert_close(torch.cat(parts, dim=1), layer.time(x)[0], atol=1e-5, rtol=1e-4)
