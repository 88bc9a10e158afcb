"""Table 3: runs of a comparison are probed on other data, by seed, beside their controls."""

import json
import shutil
from dataclasses import replace

import pytest

from dila.errors import DilaError
from dila.recipes import compare as comparison
from dila.recipes import table3 as recipe
from dila.recipes.compare import compare, run_of
from dila.recipes.table3 import Settings, main, markdown, run_table3

AGENT = {"column": "state", "components": ("agent_x", "agent_y"), "change": True}


@pytest.fixture(scope="module")
def runs(first_look, tmp_path_factory):
    """Two seeds of DiLA, whole and discrete, at toy scale."""

    def small(settings, name, seed):
        made = run_of(settings, name, seed)
        changed = {"action_dim": made.model.action_dim} if name != "dila" else {}
        model = replace(first_look.run.model, bottleneck=made.model.bottleneck, **changed)
        return replace(made, encoder=first_look.run.encoder, batch=4, evaluate_clips=2, model=model)

    out = tmp_path_factory.mktemp("table3") / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "run_of", small)
        data, features = str(first_look.folder / "pusht"), first_look.folder / "features"
        names = ("dila", "ablation:discrete")
        compare(comparison.Settings(data, out, names, seeds=2, steps=3, cache_dir=features, device="cpu"))
    return out


def test_every_run_is_probed_once_and_tested_by_seed(runs, first_look, tmp_path, monkeypatch):
    settings = Settings(
        runs, (str(first_look.folder / "pusht"),), tmp_path, seeds=2, pairs=64, device="cpu",
        cache_dir=first_look.folder / "features", **AGENT,
    )  # fmt: skip
    table = run_table3(settings)
    told = table["data"]["pusht"]
    assert list(told["models"]) == ["dila", "ablation:discrete"]
    for model in told["models"].values():
        assert len(model["r2"]["seeds"]) == len(model["mse"]["seeds"]) == 2
        low, high = model["r2"]["interval"]
        assert low < model["r2"]["mean"] < high
    assert set(told["controls"]) == {"untrained", "features"}
    assert [(test["score"], test["first"], test["seeds"]) for test in told["tests"]] == [
        ("r2/z/ridge", "ablation:discrete", 2), ("mse/z/ridge", "ablation:discrete", 2),
    ]  # fmt: skip
    assert told["claims"]["ablation:discrete"] in ("holds", "open", "reversed")
    page = markdown(table)
    assert "| R² ↑ | dila | ablation:discrete | z of an untrained DiLA | raw feature differences |" in page
    claim = "true actions are predicted better from z than from a discrete z"
    assert f"| {claim} | {told['claims']['ablation:discrete']} |" in page
    monkeypatch.setattr(recipe, "open_bench", lambda *_, **__: pytest.fail("it was probed again"))
    assert run_table3(settings) == table
    with pytest.raises(DilaError, match=r"dila-seed0\.json belongs to another run, or was made with other settings"):
        run_table3(replace(settings, pairs=32))


def test_a_run_is_not_judged_on_what_it_was_trained_on(runs, first_look, tmp_path):
    copied = tmp_path / "toy" / "dila-seed0"
    shutil.copytree(runs / copied.name, copied)
    told = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(told | {"clips": told["clips"] | {"held_out": 0.5}}))
    data, features = str(first_look.folder / "pusht"), first_look.folder / "features"
    with pytest.raises(DilaError, match=r"dila-seed0 was trained on \d+ of the \d+ episodes to be evaluated"):
        run_table3(
            Settings(copied.parent, (data,), tmp_path / "out", seeds=1, cache_dir=features, device="cpu", **AGENT)
        )


def test_what_is_not_there_is_one_sentence(runs, tmp_path, capsys):
    assert main(["--runs", str(tmp_path), "--data", "recordings/kitchen", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"table3: runs: {tmp_path} has no run of dila; train some with")
    with pytest.raises(DilaError, match="two data sets have the same name"):
        run_table3(Settings(runs, ("a/kitchen", "b/kitchen"), tmp_path / "out"))


def test_help_shows_lines_as_they_stand(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    told = capsys.readouterr().out
    assert end.value.code == 0
    assert "::" not in told
    assert "python -m dila.recipes.table3 --runs" in told
