"""``dila params``."""

from collections.abc import Sequence

from dila.cli.arguments import print_json, read


def params(json: bool = False) -> None:
    """How many parameters DiLA and the baselines have at each size, and how many were published.

    Args:
        json: as one JSON document.
    """
    from dataclasses import asdict

    from dila.evaluate.parameters import sizes

    rows = sizes()
    if json:
        print_json([asdict(row) for row in rows])
        return
    print(f"{'model':<10}{'size':<11}{'features':<16}{'z':>5}{'parameters':>14}{'published':>14}")
    for row in rows:
        features = " x ".join(map(str, row.features))
        told = f"{row.published:,}" if row.published else ""
        print(f"{row.model:<10}{row.size:<11}{features:<16}{row.action_dim:>5}{row.parameters:>14,}{told:>14}")


def main(arguments: Sequence[str]) -> None:
    """Read the command line and run."""
    read(params, "params", arguments)
