"""``dila params``."""

from dila.cli.arguments import print_json


def params(json: bool = False) -> None:
    """Count the parameters of DiLA and the baselines at each size, next to the published numbers.

    Parameters are trainable; the frozen part of a published model is listed separately. Published is the trainable
    number of the authors or of their code; table 8 is the paper's number, which includes Moto's frozen part and not
    DiLA's (500M).

    Args:
        json: print one JSON document.
    """
    from dataclasses import asdict

    from dila.evaluate.parameters import sizes

    rows = sizes()
    if json:
        print_json([asdict(row) for row in rows])
        return
    heads = ("parameters", "frozen", "published", "table 8")
    print(f"{'model':<20}{'size':<11}{'features':<16}{'z':>5}" + "".join(f"{head:>14}" for head in heads))
    for row in rows:
        features = " x ".join(map(str, row.features))
        numbers = (row.parameters, row.frozen, row.published, row.table_8)
        told = "".join(f"{number:>14,}" if number else " " * 14 for number in numbers)
        print(f"{row.model:<20}{row.size:<11}{features:<16}{row.action_dim:>5}{told}".rstrip())
