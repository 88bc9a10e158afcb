"""Recipe for one GPU."""

from dila.model.presets import preset
from dila.train.objectives import OneStep, Rollout, Terms
from dila.train.run import ClipSettings, DecoderRun, Optimiser, Run, Stage


def small() -> Run:
    """51M parameters on DINOv2 features, for your own video on one GPU.

    Hardware: one GPU of 16 GB or more (an estimate, not measured). Time and score: not measured.
    """
    terms = Terms(motion=1.0, detach_structure=True)
    return Run(
        name="small",
        model=preset("small"),
        encoder={"name": "dinov2"},
        stages=(
            Stage(OneStep(terms, shown=0.5), steps=5_000, name="shown"),
            Stage(OneStep(terms), steps=10_000),
            Stage(Rollout(terms), steps=1_000),
        ),
        clips=ClipSettings(frames=16, stride=0.2),
        optimiser=Optimiser(lr=3e-4, weight_decay=1e-4, warmup=500, schedule="cosine", floor=0.05, clip=1.0),
        batch=32,
        log_every=20,
        evaluate_every=1_000,
        decoder=DecoderRun(steps=5_000, size=256, width=48, max_width=256),
        workers=4,
    )
