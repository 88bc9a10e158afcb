import json
import re

import pytest

from dila.cli.main import main
from dila.errors import DilaError
from dila.recipes.compare import GROUPS
from dila.recipes.summary import BEGIN, CLAIMS, END, summarise

pytest.importorskip("matplotlib")

SCORES = {
    "dila": (0.7, 0.8), "baseline:lapa": (0.9, 0.5), "ablation:gaussian": (0.7, 0.7), "ablation:z-2": (0.8, 0.4),
    "ablation:z-8": (0.75, 0.6), "ablation:z-128": (0.7, 0.8), "ablation:no-action": None,
}  # fmt: skip


def run(name, seed, **more):
    told = {
        "name": name, "seed": seed, "size": "tiny", "steps": 300, "clips": 4800, "device": "cpu",
        "parameters": 2_000_000, "seconds_training": 100.0, "dila_version": "0.1.0", "commit": "abc",
        "losses": {"feature": 1.0},
    }  # fmt: skip
    if (scores := SCORES[name]) is not None:
        error, r2 = (score + 0.02 * seed + 0.001 * (len(name) * seed % 3) for score in scores)
        told |= {"rollout": {"pooled": error, "one_step": error, "by_horizon": [error, error + 0.1], "clips": 4}}
        told |= {"probe": {"r2": r2}}
    return told | more


@pytest.fixture
def folder(tmp_path):
    results = tmp_path / "pusht" / "results"
    results.mkdir(parents=True)
    for name in SCORES:
        for seed in range(3):
            path = results / f"{name.replace(':', '-')}-seed{seed}.json"
            path.write_text(json.dumps(run(name, seed)))
    return tmp_path / "pusht"


def test_a_page_has_scores_tests_claims_and_pictures(folder, tmp_path, capsys):
    out = tmp_path / "docs" / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert re.findall(r"^\| (dila|baseline:\w+|ablation:[\w-]+) \| 3 ", page, re.M) == [
        "dila", "baseline:lapa", "ablation:gaussian", "ablation:no-action", "ablation:z-2", "ablation:z-8",
        "ablation:z-128",
    ]  # fmt: skip
    assert re.search(r"\| baseline:lapa \| 3 \| 2,000,000 \| 0\.92\d \[0\.\d+, 0\.\d+\]", page)
    assert re.search(r"than those of LAPA \| table 1 .* -0\.\d+ \[.*\], 3 seeds \| \*\*holds\*\* \|", page)
    assert re.search(r"than those of DiLA with a Gaussian z .* \*\*open\*\* \|", page)
    pictures = re.findall(r"!\[[^]]+\]\((\S+)\)", page)
    assert [name.rpartition("-")[2] for name in pictures] == ["scores.png", "horizon.png", "widths.png"]
    assert all((out.parent / name).is_file() for name in pictures)
    told = json.loads(out.with_suffix(".json").read_text())
    assert {test["first"] for test in told[0]["tests"]} == SCORES.keys() - {"dila", "ablation:no-action"}
    assert str(out) in capsys.readouterr().out


def test_text_around_the_summary_stays(folder, tmp_path):
    out = tmp_path / "results.md"
    out.write_text(f"# Mine\n\nbefore\n\n{BEGIN}\nstale words\n{END}\n\nafter\n")
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    first = out.read_text()
    assert first.startswith(f"# Mine\n\nbefore\n\n{BEGIN}\n")
    assert first.endswith(f"{END}\n\nafter\n")
    assert "stale words" not in first
    assert main(["compare", "summary", str(folder / "results"), "--out", str(out)]) == 0
    assert out.read_text() == first.replace("pusht", "results")
    assert main(["compare", "summary", str(folder), str(folder), "--out", str(out)]) == 2
    out.write_text("# Mine\n")
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 2


def test_what_failed_is_told_and_one_seed_is_not_tested(folder, tmp_path):
    for path in folder.rglob("*-seed[12].json"):
        path.unlink()
    path = folder / "results" / "baseline-lapa-seed0.json"
    path.write_text(json.dumps(run("baseline:lapa", 0) | {"failed": "the loss is not finite"}))
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert "No model has two seeds in common with dila" in page
    assert "- baseline:lapa, seed 0: the loss is not finite" in page
    assert "the paper's claim |" not in page


def test_other_comparisons_are_not_mixed_and_damage_is_told(folder):
    path = folder / "results" / "dila-seed9.json"
    path.write_text(json.dumps(run("dila", 9, steps=10)))
    with pytest.raises(DilaError, match="holds runs with steps of 10, 300; give one comparison a folder"):
        summarise(folder)
    path.write_text("{")
    with pytest.raises(DilaError, match=r"dila-seed9\.json cannot be read as JSON"):
        summarise(folder)
    path.write_text("{}")
    with pytest.raises(DilaError, match=r"dila-seed9\.json is no result of dila compare"):
        summarise(folder)
    path.unlink()
    with pytest.raises(DilaError, match="has no run of genie; it has some of dila, baseline:lapa"):
        summarise(folder, "genie")
    with pytest.raises(DilaError, match="holds no results of a comparison"):
        summarise(folder.parent)


def test_every_claim_is_of_models_that_a_comparison_has():
    assert all(name in GROUPS["all"] for claim in CLAIMS for name in (claim.best, *claim.others))
