"""``python -m dila VERB``: the command ``dila`` for launchers that take a module, such as torchrun and accelerate."""

import sys

from dila.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
