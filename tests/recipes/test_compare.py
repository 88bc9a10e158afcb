import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dila.baselines.presets import BASELINES
from dila.cli.main import main
from dila.errors import DilaError
from dila.interop.models import MODELS
from dila.recipes import compare as module
from dila.recipes import recipe
from dila.recipes.compare import Settings, compare, run_of, spelled_out
from dila.recipes.compared import GROUPS, shortened
from dila.recipes.results import table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(first_look, tmp_path):
    return Settings(
        str(first_look.folder / "pusht"), tmp_path / "out", ("dila", "baseline:adaworld"), seeds=1, steps=4,
        cache_dir=first_look.folder / "features", device="cpu",
    )  # fmt: skip


@pytest.fixture
def toy(first_look, monkeypatch):
    """Recipes at toy scale."""
    made = run_of

    def small(settings, name, seed):
        run = replace(made(settings, name, seed), encoder=first_look.run.encoder, batch=4, evaluate_clips=2)
        if name == "dila":
            return replace(run, model=first_look.run.model)
        return replace(run, model=replace(run.model, width=16, heads=2, encoder_depth=1, decoder_depth=1))

    monkeypatch.setattr(module, "run_of", small)


def test_runs_are_trained_measured_written_and_then_skipped(settings, toy, monkeypatch, capsys):
    first = compare(settings)
    assert [(result["name"], result["seed"], result["steps"], result["clips"]) for result in first] == [
        ("dila", 0, 4, 16),
        ("baseline:adaworld", 0, 4, 16),
    ]
    for result in first:
        assert {"parameters", "losses", "rollout_error_vs_copy_last", "probe_r2", "seconds", "commit"} <= result.keys()
        assert len(result["rollout"]["by_horizon"]) == 8
    assert set(first[1]["losses"]) == {"feature", "kl"}
    said = capsys.readouterr()
    assert "baseline:adaworld seed 0: done" in said.out
    assert "comparison" in said.err, "hours pass in silence"
    assert "4/4" in said.err
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it was trained again"))
    assert compare(settings) == first
    for more, told in (
        ({"steps": 5}, "steps = 4, not 5"),
        ({"data": "elsewhere/prim"}, "data = pusht, not prim"),
        ({"probed": ("block_x",)}, "probed = agent_x agent_y, not block_x"),
    ):
        with pytest.raises(DilaError, match=f"was made with {told}; choose another out"):
            compare(replace(settings, **more))


def test_results_of_other_data_of_the_same_name_are_not_printed(settings, toy, monkeypatch):
    settings = replace(settings, names=("dila",))
    compare(settings)
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it was trained again"))
    moved = settings.out.parent / "elsewhere" / "pusht"
    shutil.copytree(settings.data, moved)
    assert len(compare(replace(settings, data=str(moved)))) == 1, "the same data in another place"
    sorted(moved.glob("*.mp4"))[-1].unlink()
    with pytest.raises(DilaError, match=r"was made from other data than .*elsewhere/pusht contains now"):
        compare(replace(settings, data=str(moved)))


def test_a_run_that_another_process_trains_is_left_to_it(settings, toy, held):
    with held(settings.out / "dila-seed0"), pytest.raises(DilaError, match=r"another process works on .*dila-seed0"):
        compare(settings)
    assert not (settings.out / "results").exists()


def test_a_run_that_fails_is_told_others_go_on_and_it_is_tried_again(settings, toy, monkeypatch):
    trained, tried = module.train, []

    def break_dila(run, *arguments, **options):
        tried.append(run.name)
        if run.name == "dila":
            raise DilaError("the loss is not finite")
        return trained(run, *arguments, **options)

    monkeypatch.setattr(module, "train", break_dila)
    failed, done = compare(settings)
    assert failed["failed"] == "the loss is not finite"
    assert "failed" not in done
    assert "1 failed" in table([failed, done])
    stored = json.loads((settings.out / "results" / "dila-seed0.json").read_text())
    assert stored == failed
    assert compare(settings)[1] == done
    assert tried == ["dila", "baseline:adaworld", "dila"]
    monkeypatch.setattr(module, "train", trained)
    assert "failed" not in compare(replace(settings, probed=("agent_x",), names=("dila",)))[0]


def test_failed_runs_are_an_exit_code(monkeypatch):
    monkeypatch.setattr(module, "compare", lambda _: [{"failed": "no"}, {}, {}])
    with pytest.raises(DilaError, match="1 of 3 runs failed, see above; run the same command to try them again"):
        module.main(["--data", "pusht"])


def test_what_is_to_be_probed_is_looked_for_before_hours_pass(settings, toy, monkeypatch, capsys):
    monkeypatch.setattr(module, "AGENT", ("nobody",))
    one = replace(settings, names=("dila",), probed=("nobody",))
    (result,) = compare(one)
    assert "probe_r2" not in result
    assert "failed" not in result
    assert "has no nobody; name others with --probed" in capsys.readouterr().out
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it was trained"))
    with pytest.raises(DilaError, match=r"--probed nope: there is no .*; choose from agent_x, agent_y"):
        compare(replace(one, out=settings.out / "other", probed=("agent_x", "nope")))


@pytest.mark.parametrize(("text", "told"), [
    ("{", "cannot be read as JSON"), ("[]", "does not contain a JSON"), ('{"name": "dila"}', "as it has no seed"),
])  # fmt: skip
def test_a_damaged_result_is_one_sentence(settings, text, told):
    path = settings.out / "results" / "dila-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(DilaError, match=rf"dila-seed0\.json .*{told}.*; remove it and run dila compare again"):
        compare(settings)


@pytest.mark.parametrize("flag", ["--seeds", "--parallel"])
def test_none_at_all_is_refused_by_the_name_of_the_flag(flag, capsys):
    assert main(["compare", "--data", "pusht", flag, "0"]) == 2
    assert capsys.readouterr().err == f"dila: {flag} 0 must be at least 1\n"


def test_no_name_is_refused():
    with pytest.raises(DilaError, match="--names is empty; choose dila"):
        compare(Settings("pusht", names=()))


def test_a_model_without_actions_is_measured_as_far_as_it_goes(settings, first_look, monkeypatch):
    made = run_of
    small = {"width": 16, "mlp_hidden": 16, "content_dim": 16, "structure_dim": 4}

    def toy(settings, name, seed):
        run = made(settings, name, seed)
        model = replace(run.model, **small, decoder=first_look.run.model.decoder)
        return replace(run, encoder=first_look.run.encoder, batch=4, evaluate_clips=2, model=model)

    monkeypatch.setattr(module, "run_of", toy)
    (result,) = compare(replace(settings, names=("ablation:no-action",)))
    assert "rollout" not in result
    assert set(result["losses"]) == {"feature"}


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_every_name_has_a_run_of_as_many_clips(size):
    settings = Settings("data", size=size, steps=40)
    runs = [run_of(settings, name, 3) for name in spelled_out(replace(settings, names=("all",)))]
    assert {(run.steps, run.batch, run.seed, run.clips, run.encoder["name"]) for run in runs} == {
        (40, runs[0].batch, 3, runs[0].clips, runs[0].encoder["name"])
    }
    with pytest.raises(DilaError, match=r"there is no 'genie'; choose dila, .* or one of table1, table2"):
        run_of(settings, "genie", 0)


def test_groups_are_spelled_out_once_and_without_what_is_dila_itself():
    names = spelled_out(Settings("data"))
    assert names == (
        "dila", "baseline:lapa", "baseline:moto", "baseline:adaworld", "baseline:villax", "ablation:no-content",
        "ablation:discrete", "ablation:gaussian",
    )  # fmt: skip
    widths = spelled_out(Settings("data", names=("widths", "dila", "ablation:z-2")))
    assert widths[:2] == ("dila", "ablation:z-2")
    assert widths[-1] == "ablation:no-bottleneck"
    assert len(widths) == 10
    assert "ablation:z-32" not in widths  # tiny has that
    assert "ablation:z-32" in spelled_out(Settings("data", size="small", names=("widths",)))
    every = set(spelled_out(Settings("data", names=("all",))))
    assert every.issuperset(name for group in GROUPS for name in spelled_out(Settings("data", names=(group,))))
    with pytest.raises(DilaError, match="ablation z-32 does not change recipe"):
        spelled_out(Settings("data", names=("ablation:z-32",)))


@pytest.mark.parametrize("steps", [3, 7, 100, 760, 1000])
def test_shortened_runs_have_the_steps_and_every_stage(steps):
    run = shortened(recipe("tiny_pusht"), steps)
    assert run.steps == steps
    assert [type(s.objective) for s in run.stages] == [type(s.objective) for s in recipe("tiny_pusht").stages]
    assert run.optimiser.warmup <= steps // 10
    with pytest.raises(DilaError, match="steps = 2 must be at least 3"):
        shortened(run, 2)


def test_the_batch_is_the_recipes_or_the_one_asked_for():
    wanted = Settings("data", steps=4)
    assert run_of(wanted, "dila", 0).batch == recipe("tiny_pusht").batch
    assert {run_of(replace(wanted, batch=2), name, 0).batch for name in spelled_out(wanted)} == {2}
    with pytest.raises(DilaError, match="batch"):
        run_of(replace(wanted, batch=0), "dila", 0)


def test_results_of_another_batch_are_not_taken_for_ones_own(settings, toy, monkeypatch):
    compare(settings)
    toys = module.run_of
    monkeypatch.setattr(module, "run_of", lambda *job: replace(toys(*job), batch=8))
    with pytest.raises(DilaError, match="was made with clips = 16, not 32; choose another out"):
        compare(settings)


def test_a_model_changed_between_two_seeds_is_not_taken_for_one(settings, toy, monkeypatch):
    settings = replace(settings, names=("baseline:adaworld",))
    (told,) = compare(settings)
    toys = module.run_of

    def wider(*job):
        run = toys(*job)
        return replace(run, model=replace(run.model, width=32), optimiser=replace(run.optimiser, lr=1.0))

    monkeypatch.setattr(module, "run_of", wider)
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("another model was trained beside it"))
    with pytest.raises(
        DilaError, match=r"model\.width = 16 \(now 32\); optimiser\.lr = .* \(now 1\.0\); choose another"
    ):
        compare(replace(settings, seeds=2))
    of_before = {key: value for key, value in told.items() if key != "run"}
    (settings.out / "results" / "baseline-adaworld-seed0.json").write_text(json.dumps(of_before))
    assert compare(settings) == [of_before], "of before runs were kept in results"


def test_clips_and_encoder_are_those_asked_for_and_held_to(settings, toy, monkeypatch):
    settings = replace(settings, names=("dila",))
    cut = replace(settings, frames=4, stride=0.2, fps=10.0, encoder={"name": "patch"})
    run = run_of(cut, "dila", 0)
    assert (run.clips.frames, run.clips.stride, run.clips.fps, run.encoder) == (4, 0.2, 10.0, {"name": "patch"})
    assert run_of(settings, "dila", 0).clips == recipe("tiny_pusht").clips
    (told,) = compare(settings)
    assert told["encoder"].startswith("efficientnet-lite0 size=64 ")
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("it was trained again"))
    for more, of in (({"stride": 0.3}, "stride = 0.2, not 0.3"), ({"fps": 5.0}, r"fps = None, not 5\.0")):
        with pytest.raises(DilaError, match=f"was made with {of}; choose another out"):
            compare(replace(settings, **more))
    assert len(compare(settings)) == 1


def test_the_encoder_of_the_size_has_its_fields_as_flags(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(module, "compare", lambda settings: asked.append(settings) or [])
    module.main(["--data", "x", "--size", "small", "--encoder.model", "my/dinov2", "--stride", "0.67"])
    module.main(["--data", "x", "--encoder.size", "64"])
    (small, tiny) = asked
    assert (small.encoder["name"], small.encoder["model"], small.stride) == ("dinov2", "my/dinov2", 0.67)
    assert (tiny.encoder["name"], tiny.encoder["size"]) == ("efficientnet-lite0", 64)
    with pytest.raises(SystemExit):
        module.main(["--data", "x", "--encoder.model", "my/dinov2"])
    assert "Unrecognized options: --encoder.model" in capsys.readouterr().err


@pytest.mark.slow
def test_several_at_once_score_what_one_after_the_other_does(settings):
    short = replace(settings, names=("baseline:moto", "baseline:adaworld"), steps=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # as many as each of two has: others sum in another order
    try:
        one = compare(short)
    finally:
        torch.set_num_threads(threads)
    both = compare(replace(short, out=settings.out.with_name("both"), parallel=2))
    for alone, beside in zip(one, both, strict=True):
        assert alone["rollout"].pop("by_horizon") == pytest.approx(beside["rollout"].pop("by_horizon"))
        assert alone["rollout"] == pytest.approx(beside["rollout"])


@pytest.mark.parametrize("script", ["compare.sh", "sceptic.sh"])
def test_help_of_the_scripts_records_nothing(script, tmp_path):
    (tmp_path / "runs").mkdir()
    copy = shutil.copy(ROOT / "runs" / script, tmp_path / "runs")
    asked = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src")}
    told = subprocess.run([copy, "--help"], cwd=tmp_path, env=asked, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert "--" in told.stdout
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [script]


def test_the_module_says_bad_input_in_one_sentence():
    asked = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    line = [sys.executable, "-m", "dila.recipes.compare", "--data", "nowhere", "--names", "genie"]
    told = subprocess.run(line, env=asked, capture_output=True, text=True, timeout=300)
    assert told.returncode == 2
    assert told.stderr.startswith("compare: names: there is no 'genie'")


NINE = """
from dataclasses import dataclass
from dila.baselines.adaworld import AdaWorld, AdaWorldConfig
from dila.baselines.presets import BASELINES
from dila.interop.models import MODELS, Kind

@dataclass(frozen=True)
class NineConfig(AdaWorldConfig):
    pass

class Nine(AdaWorld):
    pass

MODELS["nine"] = Kind(NineConfig, Nine)
BASELINES["nine"] = {"tiny": NineConfig((8, 8), 272, width=16, heads=2, encoder_depth=1, decoder_depth=1)}
"""


@pytest.mark.slow
def test_a_baseline_of_ones_own_is_known_in_workers(settings, tmp_path, monkeypatch):
    (tmp_path / "nine.py").write_text(NINE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("nine")
    try:
        (told,) = compare(replace(settings, names=("baseline:nine",), steps=2, batch=2, parallel=2))
    finally:
        del MODELS["nine"], BASELINES["nine"], sys.modules["nine"]
    assert "failed" not in told


def test_the_idm_of_two_frames_is_compared_with_the_bidirectional_one():
    assert spelled_out(Settings("x", names=("idm",))) == ("dila", "ablation:bidirectional")
    assert spelled_out(Settings("x", names=("idm",), size="small")) == ("dila", "ablation:pairwise")


def test_the_diffusion_model_follows_the_latent_action_model_of_its_seed(settings):
    named = replace(settings, names=("dila", "adaworld_diffusion"))
    assert spelled_out(named) == ("dila", "baseline:adaworld", "adaworld_diffusion")
    run = run_of(named, "adaworld_diffusion", 3)
    assert (run.name, run.start, run.steps) == ("adaworld_diffusion", str(settings.out / "baseline-adaworld-seed3"), 4)
    assert run_of(named, "baseline:adaworld", 3).start is None
    with pytest.raises(DilaError, match="there is no 'adaworld_diffusion'"):
        run_of(replace(named, size="small"), "adaworld_diffusion", 0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
@pytest.mark.parametrize("parallel", [1, 2])
def test_the_diffusion_model_is_trained_and_measured(settings, parallel):
    named = replace(settings, names=("adaworld_diffusion",), steps=2, batch=2, parallel=parallel)
    first, second = compare(named)
    assert (first["name"], second["name"]) == ("baseline:adaworld", "adaworld_diffusion")
    assert "failed" not in second, second["failed"]
    assert {"rollout", "probe_r2", "parameters"} <= second.keys()
    assert set(second["losses"]) == {"feature"}
