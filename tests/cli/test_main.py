import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dila.cli.main import VERBS, main
from dila.data import write_video
from dila.errors import Shortage


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused: exit code 2 and one sentence, which is returned."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # flags that do not parse
            code = stop.code
        told = capsys.readouterr().err.strip()
        assert code == 2
        assert told
        assert "Traceback" not in told
        return told

    return run


@pytest.fixture
def short_video(tmp_path):
    path = tmp_path / "short.mp4"
    write_video(path, torch.zeros(1, 3, 32, 32, dtype=torch.uint8), 10)
    return path


@pytest.mark.parametrize("arguments", [["--help"], ["params", "--help"], ["params", "--json"]])
def test_output_that_nobody_reads_any_more_ends_quietly(arguments):
    command, pipe = [sys.executable, "-m", "dila", *arguments], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize(("verb", "output", "code", "told"), [
    ("params", ">&-", 0, ""), ("params", ">&- 2>&-", 0, ""), ("--help", ">&-", 0, ""), ("nope", ">&-", 2, "no verb"),
    ("params", "> /dev/full", 2, "dila: the output cannot be written (No space left on device); free some space, or"),
    ("--help", "> /dev/full", 2, "dila: the output cannot be written (No space left on device); free some space, or"),
])  # fmt: skip
def test_output_that_is_closed_or_full_is_no_mistake_of_ours(verb, output, code, told):
    command = f"'{sys.executable}' -m dila {verb} {output}"
    ended = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == code
    assert told in ended.stderr
    assert ended.stderr.count("\n") == (told != "")


def test_a_pipe_that_breaks_elsewhere_is_no_end(monkeypatch):
    def worker_died(*_):
        raise BrokenPipeError

    monkeypatch.setattr("dila.cli.main._run", worker_died)
    with pytest.raises(BrokenPipeError):
        main(["params"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "too little memory (allocation failed); close"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nof which"), "(CUDA out of memory. Tried to"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), "or lower --batch or --workers"),
        (
            OSError(24, "Too many open files", "a.mp4"),
            "too many files are open ([Errno 24] Too many open files: 'a.mp4')",
        ),
        (Shortage("Caught Shortage in a worker.\ndila.errors.Shortage: too little"), "dila: too little"),
    ],
)
def test_a_machine_that_is_too_small_is_told_in_a_sentence(error, words, refused, monkeypatch):
    monkeypatch.setattr("dila.cli.params.params", lambda: (_ for _ in ()).throw(error))
    told = refused("params")
    assert words in told
    assert "\n" not in told


def test_a_mistake_of_ours_is_no_sentence(monkeypatch):
    monkeypatch.setattr("dila.cli.params.params", lambda: [][1])
    with pytest.raises(IndexError):
        main(["params"])


def as_program(*arguments, **environment):
    command = [sys.executable, "-m", "dila", *arguments]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


def test_a_name_that_is_no_text_is_told_or_shown_with_escapes(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    ended = as_program("data", "record", "primitives", folder, "--episodes", "1", "--frames", "2", "--size", "32")
    assert ended.returncode == 2
    assert re.search(rb"dila: the name '.*\\udcff.* is not valid UTF-8", ended.stderr)
    write_video(folder / "\u00e9.mp4", torch.zeros(4, 3, 32, 32, dtype=torch.uint8), 10)
    ended = as_program("data", "check", folder, PYTHONIOENCODING="ascii")
    assert ended.returncode in (0, 1)
    assert b"\\udcff" in ended.stdout


@pytest.mark.parametrize(
    "verb", [["rollout", "box", "box/pusht_0", "--out"], ["train", "tiny_pusht", "--data", "box", "--out"]]
)
def test_a_name_that_no_disk_takes_is_a_sentence(verb, tmp_path, capsys):
    assert main([*verb, str(tmp_path / ("a" * 300 + ".gif"))]) == 2
    assert "cannot be used (File name too long); give another path" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["~/r", "--episodes=1"], ["--out=~/r", "--episodes", "1"]])
def test_a_path_from_home_is_spelt_out(words, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("dila.cli.arguments.read", lambda verb, name, arguments: seen.extend(arguments))
    seen = []
    main(["data", "record", "primitives", *words])
    assert seen == ["primitives", *(word.replace("~", str(tmp_path)) for word in words)]


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {verb} " in told for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0
    assert "usage: dila " + verb in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    import dila

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"dila {dila.__version__}"


@pytest.mark.parametrize("code", [130, 143])
def test_training_that_was_stopped_and_saved_says_so(code, monkeypatch, capsys, tmp_path):
    from dila.train import loop

    def stopped(*_, **__):
        raise SystemExit(code)

    monkeypatch.setattr(loop, "train", stopped)
    with pytest.raises(SystemExit) as end:
        main(["train", "tiny_pusht", "--data", str(tmp_path)])
    assert end.value.code == code
    assert capsys.readouterr().err == "dila: stopped and saved; the same command resumes where it stopped\n"


def test_the_clips_in_the_box_are_measured_where_they_lie(capsys):
    assert main(["data", "check", "box", "--frames", "1"]) == 0
    assert "on disk          0.2 MB" in capsys.readouterr().out


def test_an_imagined_clip_begins_with_the_frame_that_the_model_saw(tmp_path):
    from dila.data import open_corpus

    assert main(["rollout", "box", "box/solid_0", "--steps", "2", "--out", str(tmp_path / "a.gif")]) == 0
    [film] = open_corpus(tmp_path / "a.gif").episodes
    _, true, imagined = film.read([0])[0].float().chunk(3, dim=-1)
    assert len(film.times) == 3
    assert (true - imagined)[:, 24:].abs().mean() < 8  # a gif has 256 colours
    assert true[:, 24:].std() > 20


def test_as_a_program_it_exits_with_2():
    done = subprocess.run([sys.executable, "-m", "dila", "lable"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dila: there is no verb 'lable'")


def test_an_unknown_recipe_is_refused_with_the_known(refused, tmp_path):
    assert "choose one of tiny_pusht" in refused("train", "tiny", "--data", tmp_path)


def test_an_unknown_field_is_refused(refused, tmp_path):
    line = ["train", "tiny_pusht", "--data", tmp_path]
    flags = "`dila train tiny_pusht --help` lists its flags"
    told = f"dila: train tiny_pusht has no flag --bacth; did you mean --batch? {flags}"
    assert refused(*line, "--bacth", 3) == refused(*line, "--bacth=3") == told
    assert "--decoder.lr or --optimiser.lr or " in refused(*line, "--lr", 3), "fields of parts are not found"
    assert refused(*line, "--quux", 3) == f"dila: train tiny_pusht has no flag --quux; {flags}"
    assert "label takes no further argument 'c'; `dila label" in refused("label", "box", "b", "c")


def test_a_field_of_the_wrong_type_is_refused(refused, tmp_path):
    assert "batch" in refused("train", "tiny_pusht", "--data", tmp_path, "--batch", "many")


def test_no_data_is_refused(refused, tmp_path):
    assert "nowhere" in refused("train", "tiny_pusht", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_among_its_data_is_refused(refused, short_video):
    folder = short_video.parent
    assert "is the data folder" in refused("train", "tiny_pusht", "--data", folder, "--out", f"{folder}/x/..")


@pytest.mark.parametrize("name", ["tiny_pusht", "adaworld_diffusion", "baseline:moto"])
def test_sizes_that_follow_the_encoder_are_refused(name, refused, short_video):
    told = refused("train", name, "--data", short_video, "--model.grid", 3, 4)
    assert "model.grid = " in told
    assert "(now [3, 4]) is determined by the encoder" in told


@pytest.mark.parametrize("verb", ["label", "rollout", "isolate"])
def test_a_model_that_is_not_there_is_refused(verb, refused, short_video, tmp_path):
    assert "no-model" in refused(verb, tmp_path / "no-model", short_video)


@pytest.mark.parametrize("verb", ["label", "rollout", "isolate"])
@pytest.mark.parametrize("what", ["missing.mp4", "empty.mp4", "truncated.mp4", "short.mp4"])
def test_a_bad_video_is_refused_by_name(verb, what, refused, first_look, short_video, tmp_path):
    video = tmp_path / what
    if what == "empty.mp4":
        video.touch()
    elif what == "truncated.mp4":
        whole = (first_look.folder / "pusht" / "episode_00000.mp4").read_bytes()
        video.write_bytes(whole[: len(whole) // 2])
    out = tmp_path / ("made.parquet" if verb == "label" else "made.mp4")
    assert what in refused(verb, first_look.folder / "run", video, "--out", out)
    assert not out.exists()


def test_a_clip_too_short_for_its_context_is_refused(refused, first_look, short_video, tmp_path):
    told = refused("rollout", first_look.folder / "run", short_video, "--out", tmp_path / "a.mp4")
    assert "short.mp4" in told or "frames" in told


def test_an_unknown_format_of_picture_is_refused(refused, first_look, tmp_path):
    video = first_look.folder / "pusht" / "episode_00000.mp4"
    assert ".mp4" in refused("isolate", first_look.folder / "run", video, "--out", tmp_path / "a.mov")


def test_a_recording_of_other_settings_is_refused(refused, first_look):
    assert "pusht" in refused("data", "record", "pusht", first_look.folder / "pusht", "--size", 64)


def test_labels_are_written_for_every_video(first_look, tmp_path, capsys):
    import pyarrow.parquet as pq

    out = tmp_path / "z.parquet"
    assert main(["label", str(first_look.folder / "run"), str(first_look.folder / "pusht"), "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert table.column_names == ["file", "frame", "time", "next", "z", "valid"]
    assert len(set(table["file"].to_pylist())) == 12
    assert "12 videos, 0 skipped" in capsys.readouterr().out


def test_a_decoder_can_be_trained_afterwards(first_look, tmp_path):
    import shutil

    import dila

    run = tmp_path / "run"
    shutil.copytree(first_look.folder / "run", run)
    arguments = [
        "train-decoder",
        str(run),
        "--data",
        str(first_look.folder / "pusht"),
        "--out",
        str(tmp_path / "drawn"),
    ]
    sizes = ["--steps", "2", "--size", "32", "--width", "8", "--max-width", "16", "--frames", "32"]
    assert main([*arguments, *sizes, "--cache-dir", str(first_look.folder / "features")]) == 0
    assert dila.load(tmp_path / "drawn").decoder.decode(torch.zeros(1, 1, 4, 4, 272)).shape[-2:] == (32, 32)


def test_weights_must_be_as_many_as_data_sets(refused, first_look, tmp_path):
    data = first_look.folder / "pusht"
    told = refused("train", "tiny_pusht", "--data", data, tmp_path, "--weights", 0.7, "--out", tmp_path / "run")
    assert "weights has 1 numbers for 2 data set(s)" in told


def test_checking_data_gives_a_code_for_ci(first_look, refused, tmp_path, capsys):
    import json
    import shutil

    data = tmp_path / "pusht"
    shutil.copytree(first_look.folder / "pusht", data)
    assert main(["data", "check", str(data)]) == 0
    assert "no problems found" in capsys.readouterr().out
    (data / "zero.mp4").touch()
    assert main(["data", "check", str(data), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["errors"][0]["kind"] == "unreadable"
    (data / "zero.mp4").unlink()
    shutil.copy(data / "episode_00000.mp4", data / "again.mp4")
    assert main(["data", "check", str(data)]) == 0
    assert main(["data", "check", str(data), "--strict"]) == 1
    assert "again.mp4" in refused("data", "check", tmp_path / "again.mp4")
    assert main(["data", "show", str(data), "--out", str(tmp_path / "sheet.png"), "--episodes", "2"]) == 0
    assert (tmp_path / "sheet.png").is_file()


def test_a_corpus_is_encoded_ahead_and_training_finds_it(first_look, tmp_path, capsys):
    data = str(first_look.folder / "pusht")
    arguments = ["encode", data, "--encoder.size", "64", "--out", str(tmp_path / "cache")]
    assert main(arguments) == 0
    assert "12 episodes are new, 0 skipped" in capsys.readouterr().out
    assert main(arguments) == 0
    assert "0 episodes are new" in capsys.readouterr().out
    shards = {path.name for path in (tmp_path / "cache").rglob("shard-*")}
    assert shards
    trained = {path.parent.name for path in (first_look.folder / "features").rglob("shard-*")}
    assert trained == {path.parent.name for path in (tmp_path / "cache").rglob("shard-*")}


@pytest.mark.parametrize(("recipe", "more", "of"), [
    ("paper", ["--encoder.model", "my/dinov2"], {"name": "dinov2", "model": "my/dinov2", "size": 224}),
    ("small", ["--encoder.name=vit-mae", "--encoder.size", "112"], {"name": "vit-mae", "size": 112}),
    ("tiny_pusht", ["--encoder.taps", "stride8"], {"name": "efficientnet-lite0", "size": 128, "taps": ["stride8"]}),
    ("tiny_pusht", ["--encoder.name", "pixels"], {"name": "pixels", "patch": 16}),
])  # fmt: skip
def test_every_field_of_the_encoder_that_is_named_is_a_flag(monkeypatch, recipe, more, of):
    trained = []
    monkeypatch.setattr("dila.train.loop.train", lambda run, *_, **__: trained.append(run.encoder) or Path("made"))
    assert main(["train", recipe, "--data", "x", *more]) == 0
    assert of.items() <= trained[0].items()


def test_a_field_or_an_encoder_that_is_not_there_is_told(capsys):
    assert main(["train", "paper", "--data", "x", "--encoder.modell", "my/dinov2"]) == 2
    assert "has no flag --encoder.modell; did you mean --encoder.model?" in capsys.readouterr().err
    assert main(["encode", "x", "--encoder.name", "vjepa"]) == 2
    assert "there is no encoder named 'vjepa'; choose one of efficientnet-lite0, dinov2" in capsys.readouterr().err


def test_table_2_is_what_cycle_measures(monkeypatch):
    asked = []

    def read(verb, name, arguments, **options):
        asked.append((verb.args, arguments))

    monkeypatch.setattr("dila.cli.eval_ablation.read", read)
    assert main(["eval", "ablation", "runs/a", "data"]) == 0
    assert asked == [(("cycle",), ["runs/a", "data"])]


def test_planning_is_evaluated_by_plan(refused):
    assert "--size 2 must be at least 8" in refused("eval", "planning", "nowhere", "pusht-reach", "--size", "2")
    assert "nowhere does not exist" in refused("eval", "planning", "nowhere", "pusht-reach")
