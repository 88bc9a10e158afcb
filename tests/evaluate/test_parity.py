import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from dila.errors import DilaError
from dila.evaluate import parity
from dila.evaluate.parity import TOLERANCE, Recording, compare
from dila.interop.released import released_name, to_released
from dila.model.config import BackboneConfig, FusionDecoderConfig, InverseDynamicsConfig, MemoryConfig
from dila.model.dila import DiLA


def copy_with(golden, folder, name, change):
    """The golden folder with the tensors of one of its files changed."""
    for file in golden.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    return folder


@pytest.fixture(scope="module")
def errors(request):
    return compare(request.path.parents[1] / "assets" / "golden")


def test_everything_recorded_agrees(errors):
    assert {name: error for name, error in errors.items() if not error < TOLERANCE} == {}


def test_everything_recorded_is_compared(errors, golden):
    recorded = load_file(golden / "io.safetensors")
    names = {name.removeprefix("io/") for name in recorded} - {"x", "x_src", "z_random", "actions"}
    assert names <= errors.keys()
    norms = json.loads((golden / "config.json").read_text())["grad_norms"]
    counted = sum(norm is not None for phase in norms.values() for norm in phase.values())
    assert counted > 600
    assert len(errors) == len(names) + counted
    assert {name.split("/")[1] for name in errors if name.startswith("loss/")} == {"phase1", "phase2", "phase3"}


def test_a_perturbed_weight_fails(golden, tmp_path):
    def perturb(tensors):
        name = "weights/content_fusion.content_memory.mamba_stack.layers.0.mamba.conv1d.weight"
        tensors[name] = tensors[name] * 1.01

    errors = compare(copy_with(golden, tmp_path, "weights.safetensors", perturb))
    failed = {name for name, error in errors.items() if not error < TOLERANCE}
    assert {"content_mem", "embedding_gen", "rollout2/embedding_gen", "loss/phase1/total"} <= failed
    assert not {"embedding_features", "structure_inf", "latent_actions", "delta_structure", "action_mlp"} & failed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("riddle", "cannot be compared: riddle"),
        ("loss/phase9/total", "cannot be compared: loss/phase9/total"),
        ("content_frame", r"recorded content_frame has shape \[2, 3\]"),
    ],
)
def test_an_item_that_is_not_known_or_misshapen_is_named(golden, tmp_path, name, message):
    def leave_only_the_input_and_the_item(io):
        x = io["io/x"]
        io.clear()
        io |= {"io/x": x, f"io/{name}": torch.zeros(2, 3)}

    folder = copy_with(golden, tmp_path, "io.safetensors", leave_only_the_input_and_the_item)
    (folder / "config.json").write_text("{}")
    with pytest.raises(DilaError, match=message):
        compare(folder)


def test_inputs_are_needed(golden, tmp_path):
    folder = copy_with(golden, tmp_path, "io.safetensors", lambda io: io.pop("io/x"))
    with pytest.raises(DilaError, match="lacks 'x'"):
        compare(folder)


@pytest.mark.parametrize("file", ["config.json", "weights.safetensors", "io.safetensors"])
def test_missing_and_damaged_files_are_named(golden, tmp_path, file):
    folder = copy_with(golden, tmp_path, "io.safetensors", lambda io: None)
    (folder / file).write_bytes(b"{broken")
    with pytest.raises(DilaError, match="cannot be read"):
        compare(folder)
    (folder / file).unlink()
    with pytest.raises(DilaError, match=f"lacks {file}; a parity folder contains"):
        compare(folder)


OTHERS = {
    "four stages, not square": {
        "grid": (8, 5),
        "backbone": BackboneConfig(spatial_depth=1, temporal_depth=3, heads=3, head_dim=4),
        "memory": MemoryConfig(depth=1, state_dim=5, conv_taps=3, expand=3),
        "idm": InverseDynamicsConfig(channels=(8, 16, 8, 24), blocks=(1, 2, 1, 3), hidden=10),
        "real_action_dim": 7,
    },
    "three stages, no action encoder": {
        "grid": (8, 8),
        "feature_dim": 40,
        "mlp_hidden": 40,
        "memory": MemoryConfig(depth=3, state_dim=2, conv_taps=4, expand=1),
        "idm": InverseDynamicsConfig(channels=(16, 8, 16), blocks=(1, 1, 1), hidden=9),
        "decoder": FusionDecoderConfig(depth=1, heads=4, head_dim=6),
        "real_action_dim": None,
    },
}


def record(folder, config, batch, frames):
    """A recording of our own model in the released file layout: nothing but its tensors and config says its sizes."""
    model = DiLA(config).eval()
    x = [torch.randn(batch, frames, config.feature_dim, *config.grid) for _ in range(2)]
    io = {"x": x[0], "x_src": x[1], "z_random": torch.randn(batch, 4, config.action_dim)}
    if config.real_action_dim:
        io["actions"] = torch.randn(batch, frames, config.real_action_dim)
    asked = {f"rollout{n}/embedding_gen": torch.empty(0) for n in (1, 3)}
    asked |= {f"loss/{phase}/total": torch.empty(0) for phase in ("phase1", "phase2")}
    asked |= {"content_mem_official_step": torch.empty(0, 3), "content_spatial_bias_row": torch.empty(0, 2)}
    weights = {"sensory_gen_loss": 1.5, "grid_loss": 0.2, "action_loss": 0.1, "l2_loss": 0.3, "symmetry_loss": 0.4}
    recording = Recording(model, io | asked, {"loss_weights": weights})
    outputs = dict(parity._outputs(recording)) | dict(parity._losses_and_gradients(recording))
    norms = {n: float(t) for n, t in outputs.items() if n.startswith("grad_norm/")}
    outputs = {n: t for n, t in outputs.items() if not n.startswith("grad_norm/")}
    stored = {f"io/{name}": t.detach().reshape(t.shape or (1,)).contiguous() for name, t in (io | outputs).items()}
    save_file(stored, folder / "io.safetensors")
    save_file({f"weights/{n}": t.contiguous() for n, t in to_released(model).items()}, folder / "weights.safetensors")
    phases = {phase: {n.split("/")[2]: v for n, v in norms.items() if phase in n} for phase in ("phase1", "phase2")}
    (folder / "config.json").write_text(json.dumps({"loss_weights": weights, "grad_norms": phases}))
    return model, stored


@pytest.mark.parametrize("name", OTHERS)
def test_a_recording_of_other_sizes_is_read_from_its_tensors_and_config(name, released_config, tmp_path):
    config = replace(released_config, **OTHERS[name])
    model, stored = record(tmp_path, config, batch=3, frames=4)
    errors = compare(tmp_path)
    assert max(errors.values()) < 1e-5
    assert {f"io/{item}" for item in errors} >= stored.keys() - {"io/x", "io/x_src", "io/z_random", "io/actions"}
    assert f"grad_norm/phase2/{released_name('idm.head.0.bias')}" in errors
    assert parity.read_recording(tmp_path).model.config == model.config


def test_the_recorded_loss_weights_are_the_ones_used(released_config, tmp_path):
    record(tmp_path, released_config, batch=2, frames=4)
    config = json.loads((tmp_path / "config.json").read_text())
    config["loss_weights"]["grid_loss"] *= 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    errors = compare(tmp_path)
    assert errors["loss/phase1/total"] > 1e-3
    assert errors["loss/phase1/grid"] < 1e-5
