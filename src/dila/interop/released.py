"""Checkpoints of the released DiLA code: read strictly, written back, and run with their quirks.

A released file is a torch dict ``{model, steps, val_steps, optimizer, scheduler}`` or a safetensors file of the model
alone. Its layout has two kinds of tensors that ours lacks: zero shifts of scale-only norms (``beta``), and context
norms that self-attention never uses. Sizes are inferred from the tensors.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dila.errors import DilaError, first_line
from dila.files import at_home, replacing
from dila.model.config import (
    BackboneConfig,
    DiLAConfig,
    ForwardDynamicsConfig,
    FusionDecoderConfig,
    InverseDynamicsConfig,
    MemoryConfig,
    Quirks,
)
from dila.model.dila import DiLA
from dila.nn.attention import Attention
from dila.shapes import Tensor
from dila.vision.stored import load_plain, tensor_faults

RELEASED_QUIRKS = Quirks(rope_before_scale=True, single_frame_rollout=True, forget_conv_window=True)

_UNREAD = "released_context_gamma"
"""Buffer that keeps the weight of an unused norm in a checkpoint, so that writing it back is lossless."""

_ST = "structure_encoder.ST_model"
_FUSION = "content_fusion.fusion_decoder"
_MEMORY = "content_fusion.content_memory"
_MODULES = [
    (r"backbone\.bias\.", rf"{_ST}.spatial_rel_pos_bias."),
    (r"backbone\.(spatial|temporal)_norm\.", rf"{_ST}.enc_\1_transformer.norm_out."),
    (r"backbone\.(spatial|temporal)\.(\d+)\.peg\.conv\.", rf"{_ST}.enc_\1_transformer.layers.\2.0.dsconv."),
    (r"backbone\.(spatial|temporal)\.(\d+)\.attention\.", rf"{_ST}.enc_\1_transformer.layers.\2.1."),
    (r"backbone\.(spatial|temporal)\.(\d+)\.ff\.", rf"{_ST}.enc_\1_transformer.layers.\2.3."),
    (r"structure\.", "content_fusion.motion_encoder."),
    (r"content\.", "content_fusion.content_encoder."),
    (r"decoder\.structure_in\.", "content_fusion.structure_to_intermediate."),
    (r"memory\.norms\.(\d+)\.", rf"{_MEMORY}.mamba_stack.layers.\1.norm."),
    (r"memory\.layers\.(\d+)\.conv\.", rf"{_MEMORY}.mamba_stack.layers.\1.mamba.conv1d."),
    (r"memory\.layers\.(\d+)\.", rf"{_MEMORY}.mamba_stack.layers.\1.mamba."),
    (r"memory\.norm_out\.", rf"{_MEMORY}.mamba_stack.norm."),
    (r"memory\.enhance\.", rf"{_MEMORY}.content_enhance."),
    (r"decoder\.bias\.", rf"{_FUSION}.spatial_rel_pos_bias."),
    (r"decoder\.norm_out\.", rf"{_FUSION}.dec_spatial_transformer.norm_out."),
    (r"decoder\.layers\.(\d+)\.peg\.conv\.", rf"{_FUSION}.dec_spatial_transformer.layers.\1.0.dsconv."),
    (r"decoder\.layers\.(\d+)\.attention\.", rf"{_FUSION}.dec_spatial_transformer.layers.\1.1."),
    (r"decoder\.layers\.(\d+)\.across_origin\.", rf"{_FUSION}.dec_spatial_transformer.layers.\1.2."),
    (r"decoder\.layers\.(\d+)\.across_content\.", rf"{_FUSION}.dec_spatial_transformer.layers.\1.3."),
    (r"decoder\.layers\.(\d+)\.ff\.", rf"{_FUSION}.dec_spatial_transformer.layers.\1.4."),
    (r"idm\.(stage|down)s\.(\d+)\.", lambda m: f"Inverse_model.{m[1]}{int(m[2]) + 1}."),
    (r"idm\.", "Inverse_model."),
    (r"fdm\.structure_in\.", "forward_dynamics.input_proj."),
    (r"fdm\.action_in\.", "forward_dynamics.action_proj."),
    (r"fdm\.bias\.", "forward_dynamics.dec_spatial_rel_pos_bias."),
    (r"fdm\.norm_out\.", "forward_dynamics.transformer.norm_out."),
    (r"fdm\.to_change\.", "forward_dynamics.to_delta."),
    (r"fdm\.layers\.(\d+)\.condition\.to_scale_shift\.", r"forward_dynamics.transformer.layers.\1.0.to_alpha_beta."),
    (r"fdm\.layers\.(\d+)\.condition\.mlp\.", r"forward_dynamics.transformer.layers.\1.0.ffn."),
    (r"fdm\.layers\.(\d+)\.peg\.conv\.", r"forward_dynamics.transformer.layers.\1.1.dsconv."),
    (r"fdm\.layers\.(\d+)\.spatial\.", r"forward_dynamics.transformer.layers.\1.2."),
    (r"fdm\.layers\.(\d+)\.temporal\.", r"forward_dynamics.transformer.layers.\1.3."),
    (r"fdm\.layers\.(\d+)\.ff\.", r"forward_dynamics.transformer.layers.\1.4."),
    (r"action_encoder\.", "Action_decoder.mapping."),
]

_LAYERS = (nn.Sequential, nn.ModuleList)
"""Containers whose sizes are inferred from the tensors, so they must not be empty."""

_MLPS = r"content_fusion\.(motion_encoder|content_encoder|structure_to_intermediate)\."
_LEAVES = [
    (rf"({_MLPS})proj_in\.", r"\1input_proj."),
    (rf"({_MLPS})layers\.", r"\1hidden_layers."),
    (rf"({_MLPS})proj_out\.", r"\1output_proj."),
    (r"(norm_out|layers\.\d+\.\d\.(?:context_)?norm)\.weight$", r"\1.gamma"),
]


def released_name(name: str) -> str:
    """Return the key of one of our parameters in the released layout."""
    for rules in (_MODULES, _LEAVES):
        for pattern, replacement in rules:
            renamed, count = re.subn(f"^{pattern}" if rules is _MODULES else pattern, replacement, name, count=1)
            if count:
                name = renamed
                break
    return name


def to_released(model: DiLA) -> dict[str, Tensor]:
    """Return the state dict of ``model`` in the released layout, including tensors that nothing uses.

    Raises:
        DilaError: the model has parts that the released layout cannot represent.
    """
    foreign = [name for name, value in _choices(model.config).items() if value != _choices(DiLAConfig())[name]]
    if foreign:
        raise DilaError(f"the released layout cannot represent a model with a different {', '.join(foreign)}")
    empty = [name for name, part in model.named_modules() if isinstance(part, _LAYERS) and not len(part)]
    if empty:
        raise DilaError(f"the released layout cannot represent a model without layers in {', '.join(empty)}")
    state = {released_name(name): tensor.detach() for name, tensor in model.state_dict().items()}
    for name, module in _unread_norms(model):
        state[name] = getattr(module, _UNREAD, torch.ones_like(module.norm.weight))
    for name in [name for name in state if name.endswith(".gamma")]:
        state[name.removesuffix("gamma") + "beta"] = torch.zeros_like(state[name])
    return state


def _choices(config: DiLAConfig) -> dict[str, object]:
    return {
        "width": config.width,
        "time_padding": config.time_padding,
        "idm.pairwise": config.idm.pairwise,
        "idm.normalise": config.idm.normalise,
        "decoder.predicts": config.decoder.predicts,
        "content": config.content,
        "bottleneck": config.bottleneck,
    }


def _unread_norms(model: DiLA) -> Iterator[tuple[str, Attention]]:
    """Yield each self-attention with the key of the unused context norm that it has in the released layout."""
    for name, module in model.named_modules():
        if isinstance(module, Attention) and module.context_norm is None:
            yield released_name(f"{name}.norm.weight").replace(".norm.gamma", ".context_norm.gamma"), module


def save_released(model: DiLA, path: str | Path) -> None:
    """Write ``model`` as a released checkpoint: safetensors if ``path`` has that suffix, else a torch dict.

    Whatever reads it applies the released code's quirks (docs/deviations.md), so a model that was trained without them
    then gives other numbers.

    Raises:
        DilaError: as `to_released`.
    """
    path = at_home(path)
    state = {name: tensor.contiguous().cpu() for name, tensor in to_released(model).items()}
    with replacing(path) as partial:
        if path.suffix == ".safetensors":
            save_file(state, partial)
        else:
            torch.save({"model": state, "steps": 0}, partial)


def load_released(path: str | Path, grid: tuple[int, int] | None = None) -> DiLA:
    """Load a released checkpoint, in evaluation mode, with the released code's quirks.

    Args:
        path: a torch file ``{model, steps, ...}`` or a safetensors file with the same keys.
        grid: rows and columns of the features, which no tensor determines; None uses the released 16 x 16.

    Raises:
        DilaError: the file is damaged, or keys are missing, unexpected, misshapen or not finite; all are
            named, unless tensors from which sizes are inferred are missing: then the first of those.
    """
    return from_released(read_released(path), grid, str(path))


def from_released(state: Mapping[str, Tensor], grid: tuple[int, int] | None = None, source: str = "checkpoint") -> DiLA:
    """Build the model from a released state dict. Raises DilaError as `load_released`."""
    config = released_config(state, grid or (16, 16), source)
    with torch.device("meta"):
        model = DiLA(config)
    _check(to_released(model), state, source)
    own = {name: state[released_name(name)].clone() for name in model.state_dict()}
    model.load_state_dict(own, assign=True)
    for name, module in _unread_norms(model):
        module.register_buffer(_UNREAD, state[name].clone(), persistent=False)
    return model.eval().requires_grad_(True)


def read_released(path: str | Path) -> dict[str, Tensor]:
    """Read the model's tensors from a released file. Raises DilaError if it is missing, damaged or of another kind."""
    path = at_home(path)
    if not path.is_file():
        raise DilaError(f"{path} does not exist; give the path of a released .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return _plainly_named(load_file(path))
        content = load_plain(path, mmap=True)
    except (SafetensorError, OSError, ValueError) as error:
        raise DilaError(
            f"cannot read {path}: {first_line(error)}; the file is damaged or not a checkpoint, so copy it again"
        ) from error
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise DilaError(
            f"{path} has no state dict under 'model'; a released checkpoint is a dict {{model, steps, ...}}"
        )
    return _plainly_named(state)


def _plainly_named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the key prefixes of recordings (``weights/``) and of multi-device training (``module.``)."""
    return {name.removeprefix("weights/").removeprefix("module."): tensor for name, tensor in state.items()}


def released_config(state: Mapping[str, Tensor], grid: tuple[int, int], source: str = "checkpoint") -> DiLAConfig:
    """Infer the config from a released state dict. Raises DilaError if tensors it needs are missing."""
    asked = _Asked(state)
    config = _read_config(asked, grid)
    if lacking := list(dict.fromkeys(asked.lacking)):
        found = f"its first keys are {', '.join(list(state)[:3])}" if state else "it contains no tensors"
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise DilaError(
            f"{source} has {len(state)} tensors but lacks {', '.join(map(repr, lacking[:3]))}{more}, from which sizes "
            f"are inferred: it is incomplete or not a DiLA checkpoint; {found}"
        )
    return config


class _Asked(dict[str, Tensor]):
    """A state dict that notes which keys it lacks, and gives a small tensor in their place."""

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__(state)
        self.lacking: list[str] = []

    def __missing__(self, key: str) -> Tensor:
        self.lacking.append(key)
        return torch.empty(1, 1, 1)


def _read_config(state: _Asked, grid: tuple[int, int]) -> DiLAConfig:
    fdm, idm, mamba = "forward_dynamics", "Inverse_model", f"{_MEMORY}.mamba_stack.layers.0.mamba"
    stages = _count(state, rf"{idm}\.stage(\d+)\.0\.", first=1)
    inner = state[f"{mamba}.A_log"].shape[0]
    dim = state[f"{_ST}.enc_spatial_transformer.norm_out.gamma"].shape[0]
    encoder_heads, encoder_head_dim = _heads(state, f"{_ST}.enc_spatial_transformer.layers.0.1")
    decoder_heads, decoder_head_dim = _heads(state, f"{_FUSION}.dec_spatial_transformer.layers.0.1")
    fdm_heads, fdm_head_dim = _heads(state, f"{fdm}.transformer.layers.0.2")
    content_dim = state[f"{_MEMORY}.mamba_stack.norm.weight"].shape[0]
    actions = state.get("Action_decoder.mapping.0.weight")
    return DiLAConfig(
        grid=grid,
        feature_dim=dim,
        structure_dim=state["content_fusion.motion_encoder.output_proj.2.weight"].shape[0],
        content_dim=content_dim,
        action_dim=state[f"{idm}.head.3.weight"].shape[0],
        mlp_hidden=state["content_fusion.motion_encoder.input_proj.weight"].shape[0],
        real_action_dim=None if actions is None else actions.shape[1],
        backbone=BackboneConfig(
            spatial_depth=_count(state, rf"{_ST}\.enc_spatial_transformer\.layers\.(\d+)\."),
            temporal_depth=_count(state, rf"{_ST}\.enc_temporal_transformer\.layers\.(\d+)\."),
            heads=encoder_heads,
            head_dim=encoder_head_dim,
        ),
        memory=MemoryConfig(
            depth=_count(state, rf"{_MEMORY}\.mamba_stack\.layers\.(\d+)\."),
            state_dim=state[f"{mamba}.A_log"].shape[1],
            conv_taps=state[f"{mamba}.conv1d.weight"].shape[-1],
            expand=inner // content_dim,
        ),
        idm=InverseDynamicsConfig(
            channels=tuple(state[f"{idm}.stage{i}.0.net.0.weight"].shape[0] for i in range(1, stages + 1)),
            blocks=tuple(_count(state, rf"{idm}\.stage{i}\.(\d+)\.") for i in range(1, stages + 1)),
            hidden=state[f"{idm}.head.0.weight"].shape[0],
        ),
        fdm=ForwardDynamicsConfig(
            dim=state[f"{fdm}.input_proj.0.weight"].shape[0],
            depth=_count(state, rf"{fdm}\.transformer\.layers\.(\d+)\."),
            heads=fdm_heads,
            head_dim=fdm_head_dim,
        ),
        decoder=FusionDecoderConfig(
            depth=_count(state, rf"{_FUSION}\.dec_spatial_transformer\.layers\.(\d+)\."),
            heads=decoder_heads,
            head_dim=decoder_head_dim,
        ),
        quirks=RELEASED_QUIRKS,
    )


def _count(state: _Asked, pattern: str, first: int = 0) -> int:
    """Count the consecutive indices, from ``first``, that the pattern's group matches among the keys."""
    found = {int(match[1]) for match in map(re.compile(pattern).match, state) if match}
    count = 0
    while first + count in found:
        count += 1
    if not count:
        state.lacking.append(pattern.replace(r"(\d+)", str(first)).replace("\\", "") + "*")
    return count or 1


def _heads(state: _Asked, attention: str) -> tuple[int, int]:
    head_dim = state[f"{attention}.q_scale"].shape[0]
    return state[f"{attention}.to_q.weight"].shape[0] // head_dim, head_dim


def _check(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    problems = tensor_faults(found, expected)
    if shifted := [n for n in sorted(found) if n.endswith(".beta") and not found[n].is_meta and found[n].any()]:
        problems.append(f"not zero: {', '.join(shifted)}")
    if problems:
        raise DilaError(f"{source} is not a complete released checkpoint; {'; '.join(problems)}")
