"""AdaWorld's diffusion world model as a recipe; it uses a trained, frozen latent action model.

::

    dila train baseline:adaworld --data pusht/ --out runs/adaworld
    dila train adaworld_diffusion --data pusht/ --start runs/adaworld
"""

from dataclasses import replace

from dila.baselines.adaworld_diffusion import published, tiny
from dila.recipes.tiny_pusht import tiny_pusht
from dila.train.published import Published, PublishedWeights
from dila.train.run import ClipSettings, Optimiser, Run, Stage

DENOISING = Published(PublishedWeights(feature=0.0))
"""Denoising loss of the network's output, without a feature loss."""


def adaworld_diffusion() -> Run:
    """AdaWorld's diffusion model at DiLA's tiny size, over a trained ``baseline:adaworld`` (--start).

    Hardware: two CPU cores. Time and score: not measured over a whole run.
    """
    run = tiny_pusht()
    return replace(
        run, name="adaworld_diffusion", model=tiny(), stages=(Stage(DENOISING, steps=run.steps, name="denoising"),)
    )


def adaworld_diffusion_published() -> Run:
    """AdaWorld's diffusion model with the published 1.5B parameters, over ``baseline:adaworld@published`` (--start).

    The number of steps is an upper bound for the release: 100 epochs of 320,000 clips, 4 on each of two devices.
    Hardware: several GPUs of 80 GB (the release used two with ZeRO). Time and score: not measured; the DiLA paper
    reports SSIM 0.634 and LPIPS 0.429 on RT-1. Patches of 16 pixels replace the image autoencoder's latents, so that
    encoder and latent action model read the same frames.
    """
    return Run(
        name="adaworld_diffusion_published",
        model=published().for_features((16, 16), 768),
        encoder={"name": "pixels", "size": 256, "patch": 16},
        stages=(Stage(DENOISING, steps=4_000_000, name="denoising"),),
        clips=ClipSettings(frames=7, stride=0.2),
        optimiser=Optimiser(lr=5e-5, weight_decay=1e-2, warmup=10_000, clip=0.3, decay_norms=True),
        batch=8,
        log_every=50,
        evaluate_every=5_000,
        checkpoint_minutes=20.0,
        workers=4,
    )
