"""The paper's training (its section 4 and the released configuration)."""

from dila.model.presets import preset
from dila.train.objectives import OneStep, Rollout
from dila.train.run import ClipSettings, Optimiser, Run, Stage


def paper() -> Run:
    """The paper's model and its two stages of unlabelled training: 30,000 teacher-forced steps, 1,000 rolled out.

    Hardware: the release names 4 GPUs with 8 clips each; ``accelerate launch`` splits the 32 among as many as there
    are. Time and score: not measured by us; the paper reports SSIM 0.774 and LPIPS 0.206 on RT-1.

    As released: sizes, loss weights, AdamW on all parameters at a constant rate without warm-up, clipping at 6, no
    augmentation. Otherwise: bf16 autocast (the release pins no precision), consecutive stages keep AdamW's moments, and
    none of the quirks of the released code. Features are normalised by statistics of the data; ``statistics`` takes the
    published ones (RAE's ``stat.pt``). Set ``clips.stride`` to the data's: the released loaders step over frames,
    not seconds (RT-1 2 frames at 3 a second, SSv2 a sixteenth of each video).
    """
    return Run(
        name="paper",
        model=preset("base"),
        encoder={"name": "dinov2"},
        stages=(Stage(OneStep(), steps=30_000), Stage(Rollout(), steps=1_000)),
        clips=ClipSettings(frames=16, stride=0.2),
        optimiser=Optimiser(lr=1e-4, weight_decay=1e-5, clip=6.0, decay_norms=True),
        batch=32,
        seed=42,
        log_every=50,
        evaluate_every=1_000,
        checkpoint_minutes=20.0,
        workers=4,
    )
