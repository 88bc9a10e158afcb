"""Two processes share each batch: what `accelerate launch` does, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_world import write_corpus

from dila.interop.pretrained import load_pretrained
from dila.train.log import read_log

SCRIPT = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from train_world import PatchConfig, PatchEncoder, small_run
from dila import vision
from dila.train.loop import train
from dila.train.objectives import ActionConditioned, OneStep, Rollout
from dila.train.run import Stage
vision.ENCODERS["patch"] = (PatchEncoder, PatchConfig)
if __name__ == "__main__":
    stages = (Stage(OneStep(), 2), Stage(Rollout(), 2), Stage(ActionConditioned(), 2))
    run = small_run(stages=stages, accumulate=2, weights=(0.5, 0.5))
    out = Path(sys.argv[3])
    train(run, [sys.argv[2], sys.argv[4]], out, cache_dir=out / "cache", progress=False)
"""


@pytest.mark.slow
def test_two_processes_train_one_model(corpus, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [
        str(script),
        str(Path(__file__).parent),
        str(corpus),
        str(tmp_path / "out"),
        str(write_corpus(tmp_path / "second")),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for _ in range(2):  # the second finds everything done
        done = subprocess.run([*torchrun, *arguments], capture_output=True, text=True, env=env, timeout=300)
        assert done.returncode == 0, done.stderr
        steps = [record["step"] for record in read_log(tmp_path / "out") if record["kind"] == "train"]
        assert steps == [1, 2, 3, 4, 5, 6]
    assert load_pretrained(tmp_path / "out").model.config.real_action_dim == 4
