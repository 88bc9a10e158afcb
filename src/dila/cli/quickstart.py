"""``dila quickstart``."""

from pathlib import Path


def quickstart(out: Path = Path("outputs/quickstart")) -> None:
    """Record Push-T, train the tiny recipe on it, evaluate, and write an HTML report. About 15 minutes on two cores.

    If interrupted, the same command resumes.

    Args:
        out: folder for data, features, run and report.
    """
    from dila.recipes.quickstart import quickstart as run

    report = run(out)
    print(
        f"\n8-step rollouts: error {report['rollout_error_vs_copy_last']:.3f} relative to repeating the first frame\n"
        f"linear probe z -> agent displacement: R² {report['probe_r2']:.3f}"
        f" (raw feature differences {report['probe_r2_feature_differences']:.3f},"
        f" shuffled labels {report['probe_r2_chance']:.3f})\n"
        f"{report['seconds']:.0f} seconds; open {out / 'report.html'}"
    )
