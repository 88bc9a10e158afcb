"""What a file of results keeps, and what is made again."""

from dataclasses import replace
from pathlib import Path

import pytest

from dila.configs import to_json
from dila.errors import DilaError
from dila.evaluate.bench import open_bench
from dila.evaluate.generation import measure_generation
from dila.evaluate.result import Score, read_results, write_results
from dila.evaluate.tables import TABLES, measure_some
from dila.interop.pretrained import load_pretrained, save_pretrained

pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    ("name", "unread", "read"),
    [
        ("generation", {"pairs": 99, "column": "action", "change": False, "seed": 1}, {"context": 2}),
        ("cycle", {"context": 2, "column": "action"}, {"pictures": 1}),
        ("transfer", {"pairs": 99, "seed": 1}, {"clips": 3}),
        ("motion", {"context": 2, "change": False}, {"components": ("agent_y",)}),
        ("probe", {"context": 2, "pictures": 1}, {"change": False}),
        ("manifold", {"context": 2, "pictures": 1}, {"seed": 1}),
        ("disentangle", {"change": False}, {"pairs": 99}),
        ("sceptic", {"context": 2, "column": "action"}, {"still": "still"}),
    ],
)
def test_a_table_is_made_again_where_a_setting_that_it_reads_differs(bench, tmp_path, monkeypatch, name, unread, read):
    out, made = tmp_path / "e.json", []

    def measure(bench):
        made.append(bench.settings)
        return bench.finish(name, 0.0, [Score("a", 1.0)])

    monkeypatch.setitem(TABLES, name, TABLES[name]._replace(measure=measure))
    for settings, times in (
        (bench.settings, 1),
        (replace(bench.settings, **unread), 1),
        (replace(bench.settings, **read), 2),
    ):
        measure_some(replace(bench, settings=settings), [name], out)
        assert len(made) == times


def test_other_tables_stay_in_the_file_with_their_settings(bench, tmp_path):
    out = tmp_path / "e.json"
    kept = replace(measure_generation(bench), settings={**to_json(bench.settings), "context": 3})
    write_results(out, [kept])
    measure_some(bench, ["cycle"], out)
    told = read_results(out)
    assert [(result.what, result.settings["context"]) for result in told] == [("generation", 3), ("cycle", 1)]
    assert told[0] == kept


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"subject": {"weights": "other", "name": "theirs"}}, "contains results of theirs, whose weights differ from"),
        ({"pins": "others"}, "contains results on other clips; give another --out"),
    ],
)
def test_a_file_of_another_model_or_of_other_clips_is_refused_and_kept(bench, tmp_path, changed, sentence):
    out = tmp_path / "e.json"
    result = bench.finish("cycle", 0.0, [Score("a", 1.0)])
    changed = changed | {"subject": replace(result.subject, **changed.get("subject", {}))}
    write_results(out, [replace(result, **changed)])
    before = out.read_text()
    with pytest.raises(DilaError, match=f"{out.name} {sentence}"):
        measure_some(bench, ["generation"], out)
    assert out.read_text() == before


def test_what_has_no_scores_or_another_decoder_or_split_is_made_again(bench, tmp_path, monkeypatch):
    out, made = tmp_path / "e.json", []
    for name in ("generation", "probe"):
        result = bench.finish(name, 0.0, [Score("a", 1.0)])
        measure = lambda bench, result=result: made.append(result.what) or result  # noqa: E731
        monkeypatch.setitem(TABLES, name, TABLES[name]._replace(measure=measure))
    wanted = ["generation", "probe"]
    measure_some(bench, wanted, out)
    write_results(out, [replace(result, scores=(), notes=("none",)) for result in read_results(out)])
    measure_some(bench, wanted, out)
    assert made == wanted * 2
    measure_some(replace(bench, subject=replace(bench.subject, decoder="another")), wanted, out)
    assert made == [*wanted * 2, "generation"]
    measure_some(replace(bench, train=bench.train[1:]), wanted, out)
    assert made == [*wanted * 2, "generation", "probe"]
    measure_some(replace(bench, subject=replace(bench.subject, name="new", seed=5)), wanted, out)
    assert len(made) == 6
    assert {(result.subject.name, result.subject.seed) for result in read_results(out)} == {("new", 5)}


def test_the_split_tells_what_is_known_of_its_episodes(bench):
    first = replace(bench.train[0], columns={"state": 1 + bench.train[0].columns["state"]})
    assert replace(bench).split == bench.split
    assert len({bench.split, replace(bench, train=[first, *bench.train[1:]]).split}) == 2


def test_a_borrowed_decoder_makes_the_pictures_anew(bench, tmp_path):
    own = load_pretrained(bench.subject.path)
    save_pretrained(tmp_path / "blind", own._replace(decoder=None))
    options = {"device": "cpu", "held_out": 0.5, "pins": bench.pins}
    options["cache_dir"] = Path(bench.data).parent / "features"
    blind, seeing = (
        open_bench(tmp_path / "blind", bench.data, tmp_path / "pictures", bench.settings, decoder=decoder, **options)
        for decoder in (None, bench.subject.path)
    )
    assert blind.subject.decoder == ""
    assert seeing.subject.decoder == bench.subject.decoder != ""
    measure_some(blind, ["generation"], tmp_path / "e.json")
    (told,) = measure_some(seeing, ["generation"], tmp_path / "e.json")
    assert told.score("ssim/imagined").value


def test_tables_that_another_process_has_written_meanwhile_are_kept(bench, tmp_path, monkeypatch):
    out = tmp_path / "e.json"
    others = bench.finish("cycle", 0.0, [Score("theirs", 2.0)])
    mine = bench.finish("generation", 0.0, [Score("mine", 1.0)])

    def measure(bench):
        write_results(out, [others])
        return mine

    monkeypatch.setitem(TABLES, "generation", TABLES["generation"]._replace(measure=measure))
    measure_some(bench, ["generation"], out)
    assert [result.what for result in read_results(out)] == ["cycle", "generation"]
