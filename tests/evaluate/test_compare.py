import json
import re
from dataclasses import replace

import pytest
import torch

from dila.cli.main import main
from dila.errors import DilaError
from dila.evaluate.compare import compare, distinct, find_results
from dila.evaluate.report import LEARNING, _numbers, _title, write_report
from dila.evaluate.result import (
    Result,
    Score,
    Subject,
    read_results,
    score_curve,
    score_ratio,
    score_rows,
    write_results,
)

pytest.importorskip("matplotlib")
ROWS = tuple(f"episode_{i // 2}.mp4@{10 * (i % 2)}" for i in range(24))


def result(name, seed, shift=0.0, rows=ROWS, pins="pins", what="generation", **settings):
    generator = torch.Generator().manual_seed(7)
    values = torch.randn(len(rows), 4, generator=generator) + shift
    values = values + 0.05 * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
    owners = torch.arange(len(rows)) // 2
    scores = (score_rows("ssim/imagined", values, owners), Score("pca_share", 0.5 + 0.01 * seed, better="neither"))
    subject = Subject(name, seed, f"runs/{name}{seed}", f"{name}{seed}", 1000, "fake")
    return Result(what, subject, "data/pusht", pins, settings, scores, rows, notes=("a note",))


def test_a_result_survives_its_file(tmp_path):
    told = result("a", 0)
    write_results(tmp_path / "new" / "evaluation.json", [told])
    assert read_results(tmp_path / "new" / "evaluation.json") == [told]
    assert told.score("ssim/imagined").by_step
    (tmp_path / "other.json").write_text('{"loss": 1}')
    with pytest.raises(DilaError, match="not a result of dila eval"):
        read_results(tmp_path / "other.json")
    with pytest.raises(DilaError, match="cannot be read"):
        read_results(tmp_path / "none.json")


def test_scores_have_their_means_and_ratios_their_sums():
    top, bottom = torch.rand(6, 3), torch.rand(6, 3) + 1
    owners = torch.arange(6) // 2
    rows = score_rows("a", top, owners, "lower")
    assert rows.value == pytest.approx(float(top.mean()))
    assert rows.values == pytest.approx(top.mean(1).tolist(), rel=1e-6)
    assert rows.by_step == pytest.approx(top.mean(0).tolist(), rel=1e-6)
    ratio = score_ratio("b", top, bottom, owners)
    assert ratio.value == pytest.approx(float(top.sum() / bottom.sum()))
    assert ratio.low <= ratio.value <= ratio.high


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("r2/change of x/z", -9.0, 1.0), ("accuracy/shape/c", -9.0, 1.0), ("ssim/imagined", -9.0, 1.0),
        ("r2_by_pairs/z/mlp", -9.0, 1.0), ("mse_by_pairs/z/mlp", 0.0, 497.0),
        ("mse/z/ridge", 0.0, 497.0), ("feature_error_over_copying", 0.0, 497.0), ("psnr/imagined", -9.0, 497.0),
        ("efficientnet_distance/cycle", 0.0, 497.0), ("twins/z_cosine", -9.0, 1.0),
    ],
)  # fmt: skip
def test_an_interval_goes_no_further_than_the_score_can(name, low, high):
    told = Score(name, 0.5, -9.0, 497.0)
    assert (told.low, told.high) == (low, high)
    seeds = [Result("probe", Subject("a", i, "", "", 1, ""), "d", "", {}, (Score(name, i / 3),)) for i in (1, 2)]
    (cell,) = compare(seeds)[0].cells
    assert max(low, -1.7) <= cell.low < cell.mean < cell.high <= min(high, 2.7)


def test_a_curve_has_the_intervals_of_its_episodes_or_seeds():
    def curve(shift):
        points = [Score("r2/z/ridge", x + shift, x - 0.1, x + 0.1) for x in (0.2, 0.95)]
        return score_curve("r2_by_pairs/z/ridge", points)

    assert (curve(0).value, curve(0).low, curve(0).high) == (0.95, 0.85, 1.0)
    assert curve(0).by_step == (0.2, 0.95)
    seeds = [Result("probe", Subject("a", i, "", "", 1, ""), "d", "", {}, (curve(0.05 * i),)) for i in (0, 1)]
    (one,), (two,) = (compare(told)[0].cells for told in (seeds[:1], seeds))
    assert (one.low_by_step, one.high_by_step) == ((0.1, 0.85), pytest.approx((0.3, 1.0)))
    middle, half = 0.225, 0.025 * 12.706  # Student's t of one degree of freedom
    assert two.low_by_step[0] == pytest.approx(middle - half, abs=1e-4)
    assert two.high_by_step == pytest.approx((middle + half, 1.0), abs=1e-4)
    without = score_curve("r2_by_pairs/z/ridge", [Score("r2/z/ridge", 0.1), Score("r2/z/ridge", 0.2, 0.1, 0.3)])
    assert (without.by_step, without.low_by_step) == ((0.1, 0.2), ())


def test_seeds_are_pooled_and_models_tested_on_the_same_clips():
    rows = compare([result("a", seed) for seed in range(3)] + [result("b", seed, 0.3) for seed in range(3)])
    ssim = next(row for row in rows if row.score == "ssim/imagined")
    assert [(cell.model, cell.seeds, cell.interval) for cell in ssim.cells] == [("a", 3, "seeds"), ("b", 3, "seeds")]
    assert ssim.cells[0].low < ssim.cells[0].mean < ssim.cells[0].high
    (test,) = ssim.tests
    # The clips differ by 1, the models by 0.3: only pairing sees it.
    assert test.difference == pytest.approx(-0.3, abs=0.05)
    assert test.p_permutation < 0.01
    assert test.p_wilcoxon < 0.01
    assert (test.episodes, test.seeds) == (12, (3, 3))
    assert next(row for row in rows if row.score == "pca_share").tests == ()


def test_one_seed_has_the_interval_of_its_episodes():
    (row, _) = compare([result("a", 0)])
    assert row.cells[0].interval == "episodes"
    assert row.tests == ()


def test_other_clips_are_not_compared():
    rows = compare([result("a", 0), result("b", 0, rows=ROWS[:20], pins="others")])
    assert [len(row.cells) for row in rows] == [1, 1, 1, 1]
    assert {row.what for row in rows} == {"generation, pins = pins", "generation, pins = others"}
    same_pins = compare([result("a", 0), result("b", 0, rows=ROWS[:20])])
    assert same_pins[0].tests == ()


@pytest.mark.parametrize(
    ("what", "first", "second", "titles"),
    [
        ("generation", {"context": 1}, {"context": 4}, ["generation, context = 1", "generation, context = 4"]),
        ("generation", {"pairs": 99, "column": "state", "pictures": 1}, {"pairs": 800}, ["generation"]),
        ("generation", {}, {"context": 1}, ["generation"]),  # what an older file does not say is as it always was
        ("probe", {"pairs": 99}, {"pairs": 99, "change": True}, ["probe, change = False", "probe, change = True"]),
        (
            "probe",
            {"components": ["x", "y"]},
            {"components": []},
            ["probe, components = x y", "probe, components = all"],
        ),
        ("comparison", {}, {"any": 2}, ["comparison", "comparison, any = 2"]),
    ],
)
def test_results_made_with_other_settings_are_not_compared(what, first, second, titles):
    rows = compare([result("a", 0, what=what, **first), result("b", 0, what=what, **second)])
    assert list(dict.fromkeys(row.what for row in rows)) == titles
    assert {row.table for row in rows} == {what}
    assert all(len(row.cells) == 3 - len(titles) for row in rows)
    assert any(row.tests for row in rows) == (len(titles) == 1)


def test_the_same_result_counts_once_and_two_models_of_one_name_and_seed_are_refused(tmp_path):
    one = result("a", 0)
    again = replace(one, subject=replace(one.subject, seed=1, path="a/copy"))
    found = {tmp_path / "one.json": [one], tmp_path / "copy.json": [one], tmp_path / "moved.json": [again]}
    assert distinct(found) == [one]
    for other in (
        replace(one, subject=replace(one.subject, weights="others")),
        replace(one, what="cycle", subject=replace(one.subject, weights="others")),
        replace(one, subject=replace(one.subject, decoder="another")),
    ):
        with pytest.raises(DilaError, match=r"one\.json and .*other\.json .*\(a 0\) .* --name or --run-seed"):
            distinct({tmp_path / "one.json": [one], tmp_path / "other.json": [other]})
    probes = [result("a", 0, what="probe"), replace(result("a", 0, what="cycle"), split="another")]
    assert distinct({tmp_path / "one.json": [one], tmp_path / "more.json": probes}) == [one, *probes]


@pytest.mark.parametrize(
    ("what", "rows", "episodes"),
    [
        ("probe", ("cam@1", "cam@2", "cam@3"), 3),
        ("generation", ("cam@1@0", "cam@1@10", "cam@2@0"), 2),
        ("generation", ("cam@1", "cam@2", "hand@1"), 2),
        ("transfer", ("source a@5 in scene b@0", "source a@5 in scene c@1", "source b@0 in scene c@1"), 2),
        ("transfer", ("source 0 in scene 0", "source 0 in scene 1", "source 1 in scene 0"), 2),
    ],
)
def test_rows_are_of_the_episodes_that_their_table_says(what, rows, episodes):
    told = compare([result(name, 0, shift, rows=rows, what=what) for name, shift in (("a", 0), ("b", 0.3))])
    assert told[0].tests[0].episodes == episodes


def test_three_models_are_adjusted_for_three_tests():
    rows = compare([result(name, 0, shift) for name, shift in (("a", 0), ("b", 0.3), ("c", 0.31))])
    tests = rows[0].tests
    assert len(tests) == 3
    assert all(test.p_holm >= test.p_permutation for test in tests)


def test_the_report_stands_alone(tmp_path, capsys):
    for name, shift in (("a", 0.0), ("<b>", 0.3)):
        for seed in range(2):
            folder = tmp_path / "runs" / f"{len(name)}{seed}"
            told = result(name, seed, shift)
            (folder / "pictures").mkdir(parents=True)
            from PIL import Image

            Image.new("RGB", (8, 8)).save(folder / "pictures" / "rollout_0.png")
            pictures = {"rollout_0.png": "a caption"}
            write_results(folder / "evaluation.json", [Result(**{**told.__dict__, "pictures": pictures})])
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    page = out.read_text()
    assert set(re.findall(r"src='(\w+:)", page)) == {"data:"}
    assert "&lt;b&gt;" in page
    assert "<b>a" not in page
    assert page.count("a caption") >= 2
    assert "p Wilcoxon" in page
    assert "a note" in page
    told = json.loads(out.with_suffix(".json").read_text())
    assert told[0]["score"] == "ssim/imagined"
    assert told[0]["tests"][0]["episodes"] == 12
    capsys.readouterr()
    assert main(["report", str(tmp_path / "runs"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told


def test_a_headline_says_whose_it_is_where_another_model_has_another_table(tmp_path):
    for name, what in (("a", "generation"), ("b", "cycle")):
        write_results(tmp_path / f"{name}.json", [result(name, 0, what=what)])
    write_report(tmp_path / "page.html", find_results([tmp_path / "a.json", tmp_path / "b.json"]))
    assert "SSIM of imagined frames (a)" in (tmp_path / "page.html").read_text()


def test_curves_have_bands_where_there_are_intervals(tmp_path):
    write_report(tmp_path / "one.html", {tmp_path / "e.json": [result("a", 0)]})
    write_report(tmp_path / "two.html", {tmp_path / "e.json": [result("a", seed) for seed in (0, 1)]})
    one, two = ((tmp_path / f"{name}.html").read_text() for name in ("one", "two"))
    assert "SSIM ↑ by frames ahead." in one
    assert "SSIM ↑ by frames ahead; bands, 95% intervals." in two


def test_of_one_episode_there_is_no_test_and_no_interval(tmp_path):
    told = [result(name, 0, shift, rows=ROWS[:2]) for name, shift in (("a", 0.0), ("b", 0.3))]
    assert (told[0].scores[0].low, told[0].scores[0].high) == (None, None)
    rows = write_report(tmp_path / "report.html", {tmp_path / "e.json": told})
    (test,) = rows[0].tests
    assert (test.low, test.p_permutation, test.p_wilcoxon, test.p_holm) == (None, None, None, None)
    assert "<td>-</td><td>-</td><td>-</td><td>1</td>" in (tmp_path / "report.html").read_text()


def drawn(folder, name, films, sheets):
    """A model's results with pictures beside them: films, each with its sheet, and sheets alone."""
    (folder / name / "pictures").mkdir(parents=True)
    files = [f"f{i}.{kind}" for i in range(films) for kind in ("png", "mp4")] + [f"s{i}.png" for i in range(sheets)]
    for file in files:
        (folder / name / "pictures" / file).write_bytes(b"x")
    told = replace(result(name, 0), pictures={file: f"caption of {file}" for file in files})
    told = replace(told, subject=replace(told.subject, seed=None))
    write_results(folder / name / "evaluation.json", [told])


def test_models_take_turns_with_their_pictures_and_what_is_left_out_is_told(tmp_path):
    for number in range(10):
        drawn(tmp_path, f"m{number}", films=1, sheets=2)
    write_report(tmp_path / "page.html", find_results([tmp_path]))
    page = (tmp_path / "page.html").read_text()
    shown = re.findall(r"(m\d): caption of (\w+\.\w+)", re.sub(r"alt='[^']*'", "", page))
    assert shown == [*((f"m{i}", "f0.mp4") for i in range(10)), ("m0", "s0.png"), ("m1", "s0.png")]
    assert "18 of 30 pictures are omitted here" in page
    assert page.count("a note") == 1
    assert "None" not in page


def test_how_a_run_learned_is_drawn_from_its_log(tmp_path):
    drawn(tmp_path, "m", films=0, sheets=0)
    write_report(tmp_path / "page.html", find_results([tmp_path]))
    assert "Training" not in (tmp_path / "page.html").read_text()
    records = [{"kind": "train", "step": i, "total": 1 / i, "rank_z": 2.0, "scale_z": 0.1 * i} for i in range(1, 30)]
    records += [{"kind": "evaluation", "step": 29, "rollout_ratio": 0.7}]
    (tmp_path / "m" / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    write_report(tmp_path / "page.html", find_results([tmp_path]))
    assert re.search(
        r"<h2>Training</h2>.*<img src='data:image/png.*rollouts of held-out clips", (tmp_path / "page.html").read_text()
    )
    panels = {title: _numbers(records, kind, number) for kind, number, title in LEARNING}
    assert [len(points) for points in panels.values()] == [29, 1, 29, 29]


def test_axes_are_named_in_words():
    rows = compare([result("a", 0)])
    assert _title("ssim/imagined", rows[0]) == "SSIM / imagined ↑"
    assert _title("feature_mse", replace(rows[0], better="lower")) == "feature MSE ↓"


def test_a_score_called_after_a_control_is_tested_on_the_page(tmp_path):
    def told(name, shift):
        values = torch.rand(24) + shift
        names = ("features_drift", "r2/features")
        scores = tuple(score_rows(score, values, torch.arange(24) // 2) for score in names)
        return replace(result(name, 0), scores=scores)

    write_report(tmp_path / "report.html", {tmp_path / "e.json": [told("a", 0.0), told("b", 0.3)]})
    page = (tmp_path / "report.html").read_text()
    assert "<td>features_drift</td><td>a</td><td>b</td>" in page
    assert "<td>r2/features</td><td>a</td>" not in page


def test_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(DilaError, match=r"no evaluation\.json"):
        find_results([tmp_path])
    with pytest.raises(DilaError, match="no results"):
        write_report(tmp_path / "a.html", {})
