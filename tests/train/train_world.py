"""A corpus of a few small pictures, an encoder that averages patches, a model of a few thousand parameters."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dila.configs import to_json
from dila.data import write_table
from dila.model.config import (
    BackboneConfig,
    DiLAConfig,
    ForwardDynamicsConfig,
    FusionDecoderConfig,
    InverseDynamicsConfig,
    MemoryConfig,
)
from dila.train import loop
from dila.train.objectives import OneStep, Rollout
from dila.train.run import ClipSettings, Optimiser, Run, Stage
from dila.vision.encoder import FrozenEncoder, Resize

SIDE, FRAMES, EPISODES = 16, 14, 5


@dataclass(frozen=True)
class PatchConfig:
    size: int = SIDE


class PatchEncoder(FrozenEncoder):
    """Mean colour of each 4 x 4 patch and its product with a fixed matrix: features without weights to load."""

    name: ClassVar[str] = "patch"

    def __init__(self, config=PatchConfig(), statistics=None):
        self.settings, self.statistics = config, statistics
        self.network = nn.Linear(3, 8, bias=False)
        self.network.weight = nn.Parameter(torch.linspace(-1, 1, 24).reshape(8, 3), requires_grad=False)
        self.resize = Resize((config.size, config.size), "bilinear", antialias=True)
        self.grid, self.feature_dim = (4, 4), 8

    def features(self, frames):
        return self.network(F.adaptive_avg_pool2d(frames, 4).permute(0, 2, 3, 1))

    def config(self):
        return {"name": self.name} | to_json(self.settings)

    def weights(self):
        return ""


def write_corpus(root: Path) -> Path:
    """Episodes of a bright square that moves by its actions, as PNG: the same bytes everywhere."""
    columns = {}
    for number in range(EPISODES):
        rng = np.random.default_rng(number)
        action = rng.integers(-3, 4, (FRAMES, 2)).astype(np.float32)
        place = np.array([6.0, 6.0])
        name = f"episode_{number}"
        (root / name).mkdir(parents=True)
        for frame in range(FRAMES):
            picture = np.full((SIDE, SIDE, 3), 40 + 30 * number, dtype=np.uint8)
            y, x = place.astype(int)
            picture[y : y + 4, x : x + 4] = (250, 60, 20 * frame % 255)
            Image.fromarray(picture).save(root / name / f"{frame:02d}.png")
            place = np.clip(place + action[frame], 0, SIDE - 4)
        columns[name] = {"action": action}
    write_table(root / "actions.parquet", columns, {"action": ("y", "x")})
    return root


def small_model(**changes) -> DiLAConfig:
    return DiLAConfig(
        grid=(4, 4),
        feature_dim=8,
        structure_dim=4,
        content_dim=8,
        action_dim=4,
        mlp_hidden=8,
        time_padding="replicate",
        backbone=BackboneConfig(1, 1, 2, 4),
        memory=MemoryConfig(depth=1, state_dim=4),
        idm=InverseDynamicsConfig(channels=(8, 8), blocks=(1, 1), hidden=16, pairwise=True),
        fdm=ForwardDynamicsConfig(dim=8, depth=1, heads=2, head_dim=4),
        decoder=FusionDecoderConfig(depth=1, heads=2, head_dim=4, predicts="change"),
        **changes,
    )


def small_run(**changes) -> Run:
    """Six steps: four one-step, two rolled out, dropout on, so that resuming has random states to restore."""
    settings = {
        "name": "test",
        "model": small_model(),
        "encoder": {"name": "patch"},
        "stages": (Stage(OneStep(), steps=4), Stage(Rollout(), steps=2, frames=3)),
        "clips": ClipSettings(frames=4, stride=0.2, held_out=0.2),
        "optimiser": Optimiser(lr=1e-3, warmup=2, schedule="cosine"),
        "batch": 4,
        "precision": "fp32",
        "log_every": 1,
        "evaluate_every": 3,
        "evaluate_clips": 3,
        "trackers": (),
    }
    return Run(**{**settings, **changes})


def after(monkeypatch, step, *deeds):
    """Do something right after an optimiser step."""
    optimise = loop.Trainer._optimise

    def then(self, parts, stage):
        result = optimise(self, parts, stage)
        if self.step + 1 == step:
            for deed in deeds:
                deed()
        return result

    monkeypatch.setattr(loop.Trainer, "_optimise", then)


def stop_at(monkeypatch, step, number):
    """Send this process a signal right after a step."""
    after(monkeypatch, step, lambda: os.kill(os.getpid(), number))
