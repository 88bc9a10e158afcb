"""Scores of a comparison, and the claims of the paper that they test."""

from dila.evaluate.result import Better
from dila.evaluate.seeds import Claim
from dila.recipes.compared import DILA

POOLED, ONE_STEP, PROBE = "rollout/pooled", "rollout/one_step", "probe/r2"
SSIM, SEEN = "generation/ssim/imagined", "generation/efficientnet_distance/imagined"
CYCLE, BACK = "cycle/cycle_over_copying", "cycle/efficientnet_distance/cycle"

SCORES: dict[str, tuple[str, Better]] = {
    POOLED: ("rollout error over copying ↓", "lower"),
    ONE_STEP: ("one step over copying ↓", "lower"),
    PROBE: ("probe R² ↑", "higher"),
}
"""Scores by their path in a run's JSON: column heading, and which direction is better."""

DRAWN: dict[str, tuple[str, Better]] = {
    SSIM: ("SSIM of rollouts ↑", "higher"),
    SEEN: ("perceptual distance of rollouts ↓", "lower"),
    BACK: ("perceptual distance of cycle transfer ↓", "lower"),
    CYCLE: ("cycle transfer over copying, in features ↓", "lower"),
}
"""The same for scores of `dila eval`, by ``TABLE/SCORE``."""

FIGURES: dict[str, tuple[str, Better, str]] = {
    "figure3/own": ("z after transfer: cosine to its source ↑", "higher", "transfer/z_cosine/its_source"),
    "figure3/other": ("z after transfer: cosine to another source ↓", "lower", "transfer/z_cosine/another_source"),
    "figure4/layout": ("rebinding: layout kept ↑", "higher", "motion/layout_r2/structure_clip/[^/]+/s"),
    "figure4/nearer": ("rebinding: nearer to that layout ↑", "higher", "motion/layout_distance/[^/]+/s"),
    "figure4/still": ("isolation: motion left ↓", "lower", "motion/motion_left"),
    "figure5/change_z": ("state changes from z, R² ↑", "higher", "disentangle/r2/change of [^/]+/z"),
    "figure5/change_s": ("state changes from changes of s, R² ↑", "higher", "disentangle/r2/change of [^/]+/ds"),
    "figure5/state_z": ("state from z, R² ↓", "lower", "disentangle/r2/(?!change of )[^/]+/z"),
    "figure5/state_s": ("state from s, R² ↑", "higher", "disentangle/r2/(?!change of )[^/]+/s"),
    "figure5/state_c": ("state from c, R² ↓", "lower", "disentangle/r2/(?!change of )[^/]+/c"),
    "figure6/angles": ("directions decoded from z ↑", "higher", "manifold/angular_correlation/[^/]+"),
    "figure6/circle": ("directions of z, old coefficient ↑", "higher", "manifold/circular_correlation/[^/]+"),
    "figure6/neighbours": ("true neighbours ↑", "higher", "manifold/trustworthiness/umap_of_truth"),
}
"""The same for figures 3 to 6, with a pattern of the scores of `dila eval` to average over the known factors.

The old coefficient of figure 6 is relative to a mean direction, which is noise if directions cover the whole circle. It
is still shown for runs that were evaluated with it.
"""

ALONE = {"copying": "*the first frame repeated*", "decoder": "*true features, drawn*"}
"""Reference rows of the tables of `DRAWN`: last part of the score's name, and label."""


def beside(score: str, side: str) -> str:
    """Name of the reference score (`ALONE`) that belongs to a score of the models."""
    return f"{score.rpartition('/')[0]}/{side}"


CALLED = {
    DILA: "DiLA",
    "baseline:lapa": "LAPA",
    "baseline:moto": "Moto",
    "baseline:adaworld": "AdaWorld's latent action model",
    "baseline:villax": "villa-X",
    "ablation:no-content": "DiLA without content",
    "ablation:discrete": "DiLA with a discrete z",
    "ablation:gaussian": "DiLA with a Gaussian z",
}
"""Labels of the models of tables 1 and 2 in plots and sentences."""

_TABLE_1 = {
    "baseline:lapa": ("0.637, 0.491", "0.565, 0.595"),
    "baseline:moto": ("0.555, 0.762", "0.593, 0.284"),
    "baseline:adaworld": ("0.625, 0.554", "0.576, 0.549"),
    "baseline:villax": ("0.636, 0.576", "0.515, 0.477"),
    "ablation:no-content": ("0.594, 0.647", "0.450, 0.258"),
}
"""Published SSIM and LPIPS of rollouts on SSv2 and RT-1; DiLA's are 0.660, 0.774 and 0.356, 0.206."""
_TABLE_2 = {
    "ablation:no-content": ("0.344", "0.451"),
    "ablation:discrete": ("0.334", "0.442"),
    "ablation:gaussian": ("0.346", "0.434"),
}
"""Published LPIPS of rollouts and of cycle transfer, averaged over both data sets; DiLA's are 0.263 and 0.343."""
_TABLE_3 = {"ablation:discrete": "0.023", "ablation:gaussian": "0.041"}
"""Published squared error of Push-T's actions; DiLA's is 0.009."""


def _claims() -> list[Claim]:
    rolled, said = "rollouts are better than those of", []
    for other, (ssim, lpips) in _TABLE_1.items():
        text, lpips = f"{rolled} {CALLED[other]}", f"LPIPS 0.356, 0.206 against {lpips}"
        said += [Claim(text, "table 1", score, DILA, other, lpips) for score in (POOLED, SEEN)]
        said.append(Claim(text, "table 1", SSIM, DILA, other, f"SSIM 0.660, 0.774 against {ssim}"))
    for other, (rollout, back) in _TABLE_2.items():
        text, lpips = f"{rolled} {CALLED[other]}", f"LPIPS 0.263 against {rollout}"
        if other not in _TABLE_1:
            said += [Claim(text, "table 2", score, DILA, other, lpips) for score in (POOLED, SEEN)]
        text, lpips = f"cycle transfer is better than that of {CALLED[other]}", f"LPIPS 0.343 against {back}"
        said += [Claim(text, "table 2", score, DILA, other, lpips) for score in (CYCLE, BACK)]
    for other, error in _TABLE_3.items():
        which = CALLED[other].removeprefix("DiLA ")
        text = f"a linear probe predicts true actions from z better than {which}"
        told = f"Push-T MSE 0.009 against {error}"
        said.append(Claim(text, "table 3", PROBE, DILA, other, told))
    return said


CLAIMS = tuple(_claims())
"""Claims of the paper, each tested with our scores closest to the paper's."""
