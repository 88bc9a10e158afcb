"""``dila parity``."""

from pathlib import Path

from tyro.conf import Positional

from dila.cli.arguments import print_json


def parity(folder: Positional[Path], json: bool = False) -> int:
    """Compare every output, loss and gradient with numbers recorded from the released model; exit 1 above 1e-4.

    Args:
        folder: folder with config.json, weights.safetensors and io.safetensors.
        json: print ``max_relative_error`` (name to value), ``worst``, ``tolerance`` and ``passed`` as JSON.
    """
    from dila.evaluate.parity import TOLERANCE, compare

    errors = compare(folder)
    worst = max(errors.values())
    if json:
        print_json({"max_relative_error": errors, "worst": worst, "tolerance": TOLERANCE, "passed": worst <= TOLERANCE})
    else:
        for name, error in sorted(errors.items(), key=lambda item: -item[1]):
            print(f"{error:9.2e}  {name}")
        print(f"{'parity' if worst <= TOLERANCE else 'NO PARITY'}: worst {worst:.2e}, tolerance {TOLERANCE:.0e}")
    return int(not worst <= TOLERANCE)
