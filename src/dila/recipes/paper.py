"""Recipe of the paper (section 4 and the released configuration)."""

from dila.model.presets import preset
from dila.train.objectives import OneStep, Rollout
from dila.train.run import ClipSettings, Optimiser, Run, Stage


def paper() -> Run:
    """The paper's model and its two stages of unlabelled training: 30,000 teacher-forced steps, 1,000 rolled out.

    Hardware: the release uses 4 GPUs with 8 clips each; ``accelerate launch`` divides the 32 clips among the available
    GPUs. Time and score: not measured by us; the paper reports SSIM 0.774 and LPIPS 0.206 on RT-1.

    As released: sizes, loss weights, AdamW on all parameters at a constant rate without warm-up, clipping at 6, no
    augmentation. Otherwise: bf16 autocast (the release does not set a precision), AdamW's moments carry over between
    stages, and faults of the released code are fixed. Features are normalised by statistics of the data;
    ``statistics`` loads the published ones (RAE's ``stat.pt``). Set ``clips.stride`` for your data: the released
    loaders use strides in frames, not seconds (RT-1: 2 frames at 3 frames per second; SSv2: a sixteenth of each video).
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
