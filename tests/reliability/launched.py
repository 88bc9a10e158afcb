"""What ``torchrun`` runs in each process: the folder, the corpus, and what goes wrong."""

import os
import sys
import time
from pathlib import Path

import victims

from dila.errors import DilaError
from dila.train import loop

if __name__ == "__main__":
    folder, corpus, *wrong = sys.argv[1:]
    optimise = loop.Trainer._optimise

    def disturbed(trainer, *arguments):
        if wrong == ["fail"] and trainer.step == 3 and os.environ["RANK"] == "1":
            raise DilaError("the disk of process 1 broke")
        if wrong == ["slow"]:
            time.sleep(1)
        return optimise(trainer, *arguments)

    loop.Trainer._optimise = disturbed
    try:
        victims.train_plain(Path(folder), Path(corpus))
    except DilaError as error:
        sys.exit(f"dila: {error}")
