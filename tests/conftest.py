import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import pytest
import torch

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
from dila.vision.rae_decoder import RAEDecoder, RAESizes

GRID = (4, 6)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def as_installed():
    """As for users: the annotations, which tests hold every call to, are not looked at."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def golden() -> Path:
    """A recording of the released code at tiny width: weights, inputs, every output, losses and gradients."""
    return Path(__file__).parent / "assets" / "golden"


@pytest.fixture
def rae_file(tmp_path):
    """Makes a decoder of features of a width, on a square grid, in the layout of the RAE release; pixels by four."""

    def make(features: int, grid: int) -> Path:
        decoder = RAEDecoder.__new__(RAEDecoder)
        torch.nn.Module.__init__(decoder)
        decoder._build(RAESizes(features, width=16, depth=1, mlp=8, patch=4, grid=grid), heads=16)
        weights = {name: 0.3 * torch.randn_like(tensor) for name, tensor in decoder.state_dict().items()}
        torch.save(weights, tmp_path / "dinov2_decoder.pt")
        return tmp_path / "dinov2_decoder.pt"

    return make


@pytest.fixture(scope="session")
def mae_folder(tmp_path_factory) -> Path:
    """A small ViT-MAE as published, the whole autoencoder with patches masked; pictures of 32, patches of 8."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("mae")
    transformers.ViTMAEForPreTraining(config).save_pretrained(path)
    return path


@pytest.fixture
def small_config() -> DiLAConfig:
    """A model of a few thousand parameters on a grid that is not square, without dropout."""
    return DiLAConfig(
        grid=GRID,
        feature_dim=24,
        structure_dim=6,
        content_dim=16,
        action_dim=8,
        mlp_hidden=20,
        real_action_dim=3,
        dropout=0.0,
        backbone=BackboneConfig(spatial_depth=2, temporal_depth=2, heads=2, head_dim=8),
        memory=MemoryConfig(depth=2, state_dim=4, conv_taps=4),
        idm=InverseDynamicsConfig(channels=(8, 16), blocks=(1, 2), hidden=12, dropout=0.0),
        fdm=ForwardDynamicsConfig(dim=16, depth=2, heads=2, head_dim=8, dropout=0.0),
        decoder=FusionDecoderConfig(depth=2, heads=2, head_dim=8),
    )


@pytest.fixture
def released_config(small_config) -> DiLAConfig:
    """The same sizes with the released code's quirks and dropouts."""
    return replace(
        small_config,
        dropout=0.1,
        idm=replace(small_config.idm, dropout=0.1),
        fdm=replace(small_config.fdm, dropout=0.1),
        quirks=Quirks(rope_before_scale=True, single_frame_rollout=True, forget_conv_window=True),
    )


def _awake(config: DiLAConfig) -> DiLA:
    model = DiLA(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture
def awake():
    """Make a model whose every parameter is random, so that no part is silent as it is at initialisation."""
    return _awake


@pytest.fixture
def clip():
    """Make random features ``B T 4 6 24`` for `small_config`."""
    return lambda frames=6, batch=2: torch.randn(batch, frames, *GRID, 24)


HOLD = """
import sys
from pathlib import Path
from dila.files import alone

with alone(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@contextmanager
def _held(path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "\n"
        yield other
        if other.poll() is None:
            other.communicate()


@pytest.fixture
def held():
    """Around what is done while another process works on a path; gives that process."""
    return _held


class FirstLook(NamedTuple):
    """What the quickstart leaves behind."""

    folder: Path
    report: dict[str, Any]
    run: Any


@pytest.fixture(scope="session")
def first_look(tmp_path_factory) -> FirstLook:
    """The quickstart at toy scale: all its parts, on real input, with a model too small and short to be any good."""
    pytest.importorskip("gym_pusht")
    from dila.recipes.quickstart import quickstart
    from dila.recipes.tiny_pusht import tiny_pusht
    from dila.train.run import DecoderRun

    run = tiny_pusht()
    model = replace(
        run.model,
        width=16,
        mlp_hidden=16,
        content_dim=16,
        idm=replace(run.model.idm, channels=(8, 8), blocks=(1, 1), hidden=16),
        fdm=replace(run.model.fdm, dim=16, depth=1, heads=2, head_dim=8),
        decoder=replace(run.model.decoder, depth=1, heads=2, head_dim=8),
    )
    short = replace(
        run,
        model=model,
        encoder={"name": "efficientnet-lite0", "size": 64},
        stages=tuple(replace(stage, steps=2) for stage in run.stages),
        batch=4,
        evaluate_clips=2,
        trackers=(),
        decoder=DecoderRun(steps=3, size=32, width=8, max_width=16, frames=64),
    )
    folder = tmp_path_factory.mktemp("outputs") / "quickstart"
    quickstart(folder, short, episodes=12, frames=30)
    return FirstLook(folder, json.loads((folder / "report.json").read_text()), short)
