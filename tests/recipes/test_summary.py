import json
import re

import pytest

from dila.cli.main import main
from dila.errors import DilaError
from dila.evaluate.result import Result, Score, Subject, write_results
from dila.recipes.claims import CALLED, CLAIMS, POOLED
from dila.recipes.compared import FAMILIES, GROUPS, OTHERS, TABLES, families
from dila.recipes.results import slug
from dila.recipes.summary import BEGIN, END, summarise

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
        error, r2 = (score + 0.02 * seed + 0.001 * (list(SCORES).index(name) * seed**2 % 7) for score in scores)
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
        "dila", "baseline:lapa", "ablation:gaussian", "dila", "ablation:z-2", "ablation:z-8", "ablation:z-128",
        "dila", "ablation:no-action",
    ]  # fmt: skip
    assert re.findall(r"^\*\*(.*)\*\*$", page, re.M) == [
        title
        for title in (*FAMILIES, OTHERS)
        if title not in ("", "Each loss off", "The IDM of two frames or of the whole clip")
    ]
    assert re.search(r"\| baseline:lapa \| 3 \| 2,000,000 \(\+0\.0%\) \| 0\.92\d \[0\.\d+, 0\.\d+\]", page)
    assert re.search(r"than those of LAPA \| table 1 .* -0\.\d+ \[.*\], 3 seeds \| \*\*holds\*\* \|", page)
    assert re.search(r"than those of DiLA with a Gaussian z .* \*\*open\*\* \|", page)
    pictures = re.findall(r"!\[[^]]+\]\((\S+)\)", page)
    assert [name.rpartition("-")[2] for name in pictures] == ["scores.png", "horizon.png", "widths.png"]
    assert all((out.parent / name).is_file() for name in pictures)
    assert re.findall(r"^\*(pusht: .*)\.\*$", page, re.M) == re.findall(r"!\[([^]]+)\]", page)
    told = json.loads(out.with_suffix(".json").read_text())
    assert {test["first"] for test in told[0]["tests"]} == SCORES.keys() - {"dila", "ablation:no-action"}
    assert str(out) in capsys.readouterr().out


def test_the_number_of_parameters_is_told_beside_dilas(folder, tmp_path):
    for path in (folder / "results").glob("ablation-no-action-*"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": 1_292_000}))
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert "| ablation:no-action | 3 | 1,292,000 (-35.4%) |" in page
    assert "| dila | 3 | 2,000,000 |" in page


def judged(name, seed, pins="abc"):
    """What runs/evaluate.sh leaves in a run: better for DiLA, more so with each seed, and the same for copying."""
    worse = 0 if name == "dila" else 0.1 + 0.001 * seed
    sides = {"imagined": 0.5, "decoder": 0.1, "copying": 0.8}
    subject = Subject(name, seed, "", "", 1, "")
    results = []
    for what, side in (("generation", "imagined"), ("cycle", "cycle")):
        scores = [Score(f"efficientnet_distance/{side}", 0.5 + worse + 0.01 * seed, better="lower")]
        scores += [
            Score(f"efficientnet_distance/{each}", sides[each], better="lower") for each in ("decoder", "copying")
        ]
        scores += [Score("psnr/copying", 30.0)]
        results.append(Result(what, subject, "pusht", pins, {}, tuple(scores)))
    return results


def test_what_was_drawn_is_told_beside_it(folder, tmp_path):
    for name in ("dila", "baseline:lapa", "ablation:gaussian"):
        for seed in range(3):
            write_results(folder / slug(name, seed) / "evaluation.json", judged(name, seed))
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert re.search(r"\| baseline:lapa \| 3 \| 0\.61\d \[.*\] \| 0\.61\d \[", page)
    assert re.search(r"\| \*the first frame repeated\* \|  \| 0\.800 \| 0\.800 \|", page)
    assert re.search(r"than those of LAPA .* perceptual distance of rollouts ↓ .* \*\*holds\*\* \|", page)
    assert re.search(r"cycle transfer is better than that of DiLA with a Gaussian z .* \*\*holds\*\* \|", page)
    told = json.loads(out.with_suffix(".json").read_text())[0]
    assert not any("copying" in test["score"] for test in told["tests"])
    assert not any("psnr" in row["score"] for row in told["scores"])
    write_results(folder / slug("dila", 0) / "evaluation.json", judged("dila", 0, pins="def"))
    with pytest.raises(DilaError, match="evaluations on different clips, abc, def; evaluate all runs with the same"):
        summarise(folder)


def test_a_claim_about_a_constant_z_is_untested(folder, tmp_path):
    scales = {"dila": (0.3, 0.25, 0.2), "baseline:lapa": (0.0, 0.0, 0.1), "ablation:gaussian": (0.001, 0.6, 0.5)}
    for name, its in scales.items():
        for seed, scale in enumerate(its):
            path = folder / "results" / f"{slug(name, seed)}.json"
            path.write_text(json.dumps(run(name, seed, held_out={"scale_z": scale})))
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert re.search(
        r"LAPA .* rollout error over copying ↓ .* \*\*untested: z of baseline:lapa is constant in 2 of 3 seeds\*\* \|$",
        page, re.M,
    )  # fmt: skip
    assert re.search(r"than those of DiLA with a Gaussian z .* \*\*open\*\* \|", page)
    assert re.search(r"^\| dila \| 3 .* \| 0\.250 \(0\.200\) \| 100 \|$", page, re.M)
    assert re.search(r"^\| ablation:z-2 \| 3 .* \|  \| 100 \|$", page, re.M)


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


def test_what_is_asked_at_once_is_adjusted_for_at_once(folder):
    def holm_over_p(name):
        return next(t.p_holm / t.p for t in summarise(folder).tests if (t.first, t.score) == (name, POOLED))

    before = holm_over_p("ablation:z-2")
    for path in folder.rglob("baseline-lapa-seed*.json"):
        path.unlink()
    assert holm_over_p("ablation:z-2") == before > 1
    for path in folder.rglob("ablation-z-8-seed*.json"):
        path.unlink()
    assert holm_over_p("ablation:z-2") < before


def test_figures_are_told_by_the_mean_over_what_is_known(folder, tmp_path):
    for name, off in (("dila", 0.0), ("ablation:gaussian", 0.2)):
        for seed in range(3):
            factors = {"x/s": 0.9, "y/s": 0.7, "change of x/z": 0.8, "x/z": 0.1, "y/z": 0.3, "x/c": 0.5}
            scores = [
                Score(f"r2/{factor}", value - off * (1 + 0.1 * seed) + 0.01 * seed) for factor, value in factors.items()
            ]
            result = Result("disentangle", Subject(name, seed, "", "", 1, ""), "pusht", "abc", {}, tuple(scores))
            write_results(folder / slug(name, seed) / "evaluation.json", [result])
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    (head,) = re.findall(r"^\| model \| seeds \| state changes from z.*$", page, re.M)
    columns = ("state changes from z, R² ↑", "state from z, R² ↓", "state from s, R² ↑", "state from c, R² ↓")
    assert head == f"| model | seeds | {' | '.join(columns)} |"
    assert re.search(r"\| dila \| 3 \| 0\.810 \[.*\] \| 0\.210 \[.*\] \| 0\.810 \[.*\] \| 0\.510 \[", page)
    assert "| baseline:lapa | 3 | 0" not in page.partition(head)[2]
    told = {test.score: test for test in summarise(folder).tests if test.first == "ablation:gaussian"}
    assert told["figure5/state_s"].difference == pytest.approx(-0.22)


def test_what_failed_is_told_and_one_seed_is_not_tested(folder, tmp_path):
    for path in folder.rglob("*-seed[12].json"):
        path.unlink()
    path = folder / "results" / "baseline-lapa-seed0.json"
    path.write_text(json.dumps(run("baseline:lapa", 0) | {"failed": "the loss is not finite"}))
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert page.count("No model can be tested against dila by seed") == 3
    assert "- baseline:lapa, seed 0: the loss is not finite" in page
    assert "the paper's claim |" not in page


def test_a_score_that_is_not_finite_is_left_out_and_told(folder, tmp_path):
    before = {test.first: test.p_holm for test in summarise(folder).tests if test.score == POOLED}
    path = folder / "results" / "ablation-gaussian-seed2.json"
    diverged = run("ablation:gaussian", 2)
    diverged["rollout"]["pooled"] = float("nan")
    path.write_text(json.dumps(diverged))
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    page = out.read_text()
    assert "nan" not in page
    assert "- ablation:gaussian, seed 2: left out, as not finite: rollout error over copying\n" in page
    tests = {test.first: test for test in summarise(folder).tests if test.score == POOLED}
    assert tests["ablation:gaussian"].seeds == 2
    assert tests["baseline:lapa"].p_holm == before["baseline:lapa"]
    assert json.loads(out.with_suffix(".json").read_text())[0]["failed"]


def test_a_copied_seed_bears_no_claim_out(folder, tmp_path):
    for path in folder.rglob("*.json"):
        if path.stem.partition("-seed")[0] not in ("dila", "baseline-lapa") or path.stem.endswith("seed2"):
            path.unlink()
    for name in ("dila", "baseline:lapa"):
        copied = json.loads((folder / "results" / f"{slug(name, 0)}.json").read_text()) | {"seed": 1}
        (folder / "results" / f"{slug(name, 1)}.json").write_text(json.dumps(copied))
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out)]) == 0
    assert "No model can be tested against dila by seed" in out.read_text()
    assert "**holds**" not in out.read_text()


def test_a_comparison_of_widths_alone_has_a_page(folder, tmp_path):
    for path in folder.rglob("*.json"):
        if "-z-" not in path.name:
            path.unlink()
    out = tmp_path / "results.md"
    assert main(["compare", "summary", str(folder), "--out", str(out), "--against", "ablation:z-8"]) == 0
    page = out.read_text()
    assert "minus ablation:z-8, by seed" in page
    assert [name.rpartition("-")[2] for name in re.findall(r"!\[[^]]+\]\((\S+)\)", page)] == ["widths.png"]


def test_other_comparisons_are_not_mixed_and_damage_is_told(folder):
    path = folder / "results" / "dila-seed9.json"
    (folder / "results" / "dila-seed8.json").write_text(json.dumps(run("dila", 8, data="pusht", probed=["agent_x"])))
    for more, told in (
        ({"steps": 10}, "steps of 10, 300"),
        ({"data": "prim"}, "data of prim, pusht"),
        ({"probed": []}, "probed of agent_x, nothing"),
    ):
        path.write_text(json.dumps(run("dila", 9) | more))
        with pytest.raises(DilaError, match=f"has runs with {told}; use one folder for each comparison"):
            summarise(folder)
    path.write_text(json.dumps(run("dila", 9, parameters=7_000)))
    with pytest.raises(DilaError, match=r"has runs of dila with 7,000, 2,000,000 parameters; give each model"):
        summarise(folder)
    path.write_text("{")
    with pytest.raises(DilaError, match=r"dila-seed9\.json cannot be read as JSON"):
        summarise(folder)
    for wrong, told in (
        ({"parameters": None}, "it has no parameters"),
        ({"rollout": {"pooled": "0.5"}}, "its rollout/pooled is '0.5'"),
    ):
        path.write_text(json.dumps(run("dila", 9) | wrong))
        with pytest.raises(DilaError, match=rf"dila-seed9\.json is not a result of dila compare, as {told}; remove it"):
            summarise(folder)
    path.unlink()
    with pytest.raises(DilaError, match="has no run of genie; it has some of dila, baseline:lapa"):
        summarise(folder, "genie")
    with pytest.raises(DilaError, match="has no results of a comparison"):
        summarise(folder.parent)


def test_what_is_drawn_together_has_a_name():
    assert set(TABLES) <= CALLED.keys()
    assert len(set(CALLED.values())) == len(CALLED)


def test_every_claim_is_of_models_that_a_comparison_has():
    assert all({claim.best, claim.other} <= set(GROUPS["all"]) for claim in CLAIMS)


def test_models_of_ones_own_are_with_the_others(folder):
    assert families(["dila", "baseline:nine", "ablation:z-2"])[OTHERS] == ("dila", "baseline:nine")
    for path in (folder / "results").glob("ablation-gaussian-*.json"):
        path.write_text(path.read_text().replace("ablation:gaussian", "baseline:nine"))
    summary = summarise(folder)
    assert "baseline:nine" in {test.first for test in summary.tests}
