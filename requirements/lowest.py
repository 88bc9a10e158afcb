"""The lower bound of every dependency as a pin: ``python requirements/lowest.py EXTRA,EXTRA [--but NAME ...]``.

``make bounds`` installs under what this prints, which is the oldest environment that pyproject.toml promises.
"""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([\w.-]+)(?:\[[^]]*\])?(?:>=|==)([\w.]+)")


def main(arguments: list[str]) -> None:
    """Print one pin a line; what follows ``--but`` is left free."""
    extras, free = arguments[0].split(","), {name.lower() for name in arguments[2:]}
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    pins = dict(match.groups() for one in wanted if (match := BOUND.match(one)))
    for name, version in sorted(pins.items()):
        if name.lower() not in free:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main(sys.argv[1:])
