"""``dila params``."""

from dila.cli.arguments import print_json


def params(json: bool = False) -> None:
    """How many parameters DiLA and the baselines have at each size, and how many were published.

    Parameters are those trained; a published model's frozen part stands beside them. Published is what its authors or
    their code have, trainable; table 8 is the paper's number, Moto's with its frozen part.

    Args:
        json: as one JSON document.
    """
    from dataclasses import asdict

    from dila.evaluate.parameters import sizes

    rows = sizes()
    if json:
        print_json([asdict(row) for row in rows])
        return
    heads = ("parameters", "frozen", "published", "table 8")
    print(f"{'model':<10}{'size':<11}{'features':<16}{'z':>5}" + "".join(f"{head:>14}" for head in heads))
    for row in rows:
        features = " x ".join(map(str, row.features))
        numbers = (row.parameters, row.frozen, row.published, row.table_8)
        told = "".join(f"{number:>14,}" if number else " " * 14 for number in numbers)
        print(f"{row.model:<10}{row.size:<11}{features:<16}{row.action_dim:>5}{told}".rstrip())
