"""Two processes share each batch: what `accelerate launch` does, on the CPU."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
from train_world import small_run, write_corpus

from dila.errors import DilaError
from dila.interop.pretrained import load_pretrained
from dila.train.log import read_log
from dila.train.processes import accelerator_of

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
    run = small_run(stages=stages, accumulate=2, weights=(0.5, 0.5), shard=sys.argv[5] == "True")
    out = Path(sys.argv[3])
    train(run, [sys.argv[2], sys.argv[4]], out, cache_dir=out / "cache", progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_train_one_model(corpus, tmp_path, shard):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [
        str(script),
        str(Path(__file__).parent),
        str(corpus),
        str(tmp_path / "out"),
        str(write_corpus(tmp_path / "second")),
        str(shard),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for _ in range(2):  # the second finds everything done
        done = subprocess.run([*torchrun, *arguments], capture_output=True, text=True, env=env, timeout=300)
        assert done.returncode == 0, done.stderr
        steps = [record["step"] for record in read_log(tmp_path / "out") if record["kind"] == "train"]
        assert steps == [1, 2, 3, 4, 5, 6]
    assert load_pretrained(tmp_path / "out").model.config.real_action_dim == 4


def test_a_launcher_that_splits_the_model_itself_is_refused(monkeypatch):
    told = SimpleNamespace(distributed_type=SimpleNamespace(value="FSDP"))
    monkeypatch.setattr(accelerate, "Accelerator", lambda **settings: told)
    with pytest.raises(DilaError, match=r"configured for FSDP.*dila train --shard"):
        accelerator_of(small_run())
