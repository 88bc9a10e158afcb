import os
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dila.errors import DilaError
from dila.interop.released import (
    RELEASED_QUIRKS,
    from_released,
    load_released,
    read_released,
    released_config,
    save_released,
    to_released,
)
from dila.model.dila import DiLA

HEAD = "Inverse_model.head.3.weight"


@pytest.fixture
def weights(golden) -> dict[str, torch.Tensor]:
    return {name.removeprefix("weights/"): t for name, t in load_file(golden / "weights.safetensors").items()}


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_written_back_it_is_the_same_to_the_bit(weights, tmp_path, ending):
    path = tmp_path / f"copy{ending}"
    save_released(from_released(weights), path)
    again = read_released(path)
    assert again.keys() == weights.keys()
    assert any(name.endswith("norm.beta") for name in weights)
    assert any(name.endswith("context_norm.gamma") for name in weights)
    assert [name for name in weights if not torch.equal(again[name], weights[name])] == []
    assert os.listdir(tmp_path) == [path.name], "no part file is left"


def test_torch_file_and_safetensors_give_the_same_model(weights, tmp_path):
    torch.save({"model": weights, "steps": 30_000, "val_steps": 3, "optimizer": {"state": {}}}, tmp_path / "a.pt")
    torch.save({"model": {f"module.{name}": t for name, t in weights.items()}, "steps": 1}, tmp_path / "b.pt")
    save_file(weights, tmp_path / "c.safetensors")
    models = [load_released(tmp_path / name) for name in ("a.pt", "b.pt", "c.safetensors")]
    for model in models:
        assert not model.training
        assert model.config.quirks == RELEASED_QUIRKS
        for name, tensor in models[0].state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)


def test_sizes_are_read_off_the_tensors(released_config):
    state = to_released(DiLA(released_config))
    assert from_released(state, released_config.grid).config == released_config


def test_a_model_without_action_encoder_reads_back_without(released_config):
    config = replace(released_config, real_action_dim=None)
    state = to_released(DiLA(config))
    assert not any(name.startswith("Action_decoder") for name in state)
    assert from_released(state, config.grid).config == config


def test_initial_model_is_written_with_unread_tensors_at_their_initial_values(released_config):
    state = to_released(DiLA(released_config))
    unread = "structure_encoder.ST_model.enc_spatial_transformer.layers.0.1.context_norm"
    assert (state[f"{unread}.gamma"] == 1).all()
    assert (state[f"{unread}.beta"] == 0).all()


def test_missing_unexpected_misshapen_and_non_finite_keys_are_all_named(weights):
    del weights["Inverse_model.stem.0.bias"]
    weights["Inverse_model.extra"] = torch.zeros(1)
    weights["forward_dynamics.to_delta.1.bias"] = torch.zeros(3)
    weights["Inverse_model.stem.0.weight"].view(-1)[0] = float("nan")
    with pytest.raises(DilaError) as raised:
        from_released(weights, source="x.pt")
    for part in (
        "x.pt is not a complete released checkpoint",
        "missing: Inverse_model.stem.0.bias",
        "unexpected: Inverse_model.extra",
        "misshapen: forward_dynamics.to_delta.1.bias [3] instead of [16]",
        "not finite: Inverse_model.stem.0.weight",
    ):
        assert part in str(raised.value)


def test_key_that_sizes_are_read_from_is_named_when_missing(weights):
    del weights[HEAD]
    with pytest.raises(DilaError, match=rf"x\.pt has \d+ tensors but lacks '{HEAD}', from which"):
        from_released(weights, source="x.pt")


def test_keys_that_sizes_are_read_from_are_counted_when_many_are_missing(weights):
    half = {name: tensor for name, tensor in weights.items() if not name.startswith(("forward_dyn", "Inverse"))}
    with pytest.raises(DilaError) as raised:
        from_released(half, source="x.pt")
    lacking = "'Inverse_model.stage1.0.*', 'forward_dynamics.transformer.layers.0.2.q_scale', "
    assert f"x.pt has {len(half)} tensors but lacks {lacking}" in str(raised.value)
    assert "layers.0.2.to_q.weight' and 5 more, from which sizes are inferred" in str(raised.value)


def test_missing_layers_are_named_as_keys_are_beside_those_that_are_there():
    state = {"encoder.a": torch.zeros(1), "encoder.b": torch.zeros(1)}
    lacking = (
        r"x\.pt has 2 tensors but lacks 'Inverse_model\.stage1\.0\.\*', .*; its first keys are encoder\.a, encoder\.b"
    )
    with pytest.raises(DilaError, match=lacking):
        from_released(state, source="x.pt")


@pytest.mark.parametrize("prefix", ["weights/", "module."])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_what_recordings_and_wrappers_put_before_keys_is_left_out(weights, tmp_path, prefix, ending):
    path, led = tmp_path / f"a{ending}", {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    save_file(led, path) if ending == ".safetensors" else torch.save({"model": led}, path)
    assert read_released(path).keys() == weights.keys()


def test_shift_that_is_not_zero_is_refused(weights):
    name = "structure_encoder.ST_model.enc_spatial_transformer.norm_out.beta"
    weights[name] = weights[name] + 1e-3
    with pytest.raises(DilaError, match=f"not zero: {re.escape(name)}"):
        from_released(weights)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_damaged_file_is_named(weights, tmp_path, ending):
    path = tmp_path / f"cut{ending}"
    save_released(from_released(weights), path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DilaError, match=rf"cannot read .*cut\{ending}: .*damaged"):
        load_released(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DilaError, match=r"nowhere\.pt does not exist"):
        load_released(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("content", [[1, 2], {"steps": 3}, {"model": [1]}, {"model": {"a": 1}}])
def test_file_of_another_kind_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(DilaError, match=r"other\.pt has no state dict under 'model'"):
        read_released(tmp_path / "other.pt")


class _Code:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_pickle_with_code_in_it_is_refused_and_not_run(tmp_path):
    target = tmp_path / "ran"
    torch.save({"model": _Code(str(target)), "steps": 1}, tmp_path / "evil.pt")
    with pytest.raises(DilaError, match=r"cannot read .*evil\.pt"):
        read_released(tmp_path / "evil.pt")
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 32}, "width"),
        ({"time_padding": "replicate"}, "time_padding"),
    ],
)
def test_model_that_the_released_layout_cannot_hold_is_refused(small_config, change, named):
    with pytest.raises(DilaError, match=f"cannot represent a model with a different {named}"):
        to_released(DiLA(replace(small_config, **change)))


def test_pairwise_and_change_models_are_refused_too(small_config):
    config = replace(
        small_config,
        idm=replace(small_config.idm, pairwise=True),
        decoder=replace(small_config.decoder, predicts="change"),
    )
    with pytest.raises(DilaError, match=r"idm\.pairwise, decoder\.predicts"):
        to_released(DiLA(config))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"idm": {"normalise": False}}, r"with a different idm\.normalise"),
        ({"idm": {"blocks": (0, 2)}}, r"without layers in idm\.stages\.0"),
        ({"backbone": {"spatial_depth": 0}}, r"without layers in backbone\.spatial"),
        ({"decoder": {"depth": 0}}, r"without layers in decoder\.layers"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(small_config, tmp_path, change, named):
    ((part, its),) = change.items()
    config = replace(small_config, **{part: replace(getattr(small_config, part), **its)})
    with pytest.raises(DilaError, match=f"cannot represent a model {named}"):
        save_released(DiLA(config), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_reading_sizes_needs_a_dila_checkpoint():
    with pytest.raises(DilaError, match="it is incomplete or not a DiLA checkpoint"):
        released_config({"a": torch.zeros(1)}, (16, 16))
