"""Every table on a model too small and short to be any good: that it is made, of what, and the same each time."""

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dila.analysis import mlp_probe
from dila.cli.main import main
from dila.data import render_primitives
from dila.errors import DilaError
from dila.evaluate import probing
from dila.evaluate.bench import Settings, borrow_decoder, open_bench
from dila.evaluate.cycle import measure_cycle, one_step, partners
from dila.evaluate.disentangle import dila_of, measure_disentangle
from dila.evaluate.factors import components
from dila.evaluate.generation import PAIRS, measure_generation
from dila.evaluate.manifold import measure_manifold
from dila.evaluate.motion import measure_motion
from dila.evaluate.probing import measure_probe, radians, target_names, targets, untrained_like
from dila.evaluate.result import Score
from dila.evaluate.sceptic import measure_sceptic
from dila.evaluate.tables import TABLES, measure_some
from dila.imagine.windows import infer_long
from dila.interop.pretrained import load_pretrained, save_pretrained
from dila.model.config import NoAction
from dila.model.dila import DiLA

pytest.importorskip("matplotlib")
SETTINGS = Settings(frames=6, clips=4, pairs=48, pictures=2, column="state", components=("agent_x",), change=True)


class Plain:
    """The verbs of any model, and no more."""

    def infer(self, e):
        return (e[:, 1:] - e[:, :-1]).mean((2, 3))

    def start(self, e):
        return e[:, -1]

    def step(self, state, z):
        state = state + z[:, None, None]
        return state, state


@pytest.fixture(scope="module")
def transforms(tmp_path_factory):
    """The same objects and transforms before a background that moves, and before one that stands still."""
    folder = tmp_path_factory.mktemp("transforms")
    for name, moves in (("moving", True), ("still", False)):
        render_primitives(folder / name, 14, 16, 32, moving_background=moves, progress=False)
    return folder


@pytest.fixture(autouse=True)
def _quick_probes(monkeypatch):
    monkeypatch.setattr(mlp_probe, "STEPS", 20)


@pytest.fixture
def no_umap(monkeypatch):
    """UMAP takes many seconds to compile; that it is an extra is tested with `dila.analysis.manifold`."""
    monkeypatch.setitem(sys.modules, "umap", None)


def moved(bench, data, out, cache, **changes):
    settings = replace(SETTINGS, column="action", components=(), change=False, **changes)
    path = bench.subject.path
    return open_bench(path, str(data), out, settings, device="cpu", cache_dir=cache, held_out=0.5)


def test_rollouts_are_judged_in_features_and_in_pixels(bench):
    told = measure_generation(bench)
    assert told.rows == bench.rows
    assert len(told.score("ssim/imagined").values) == 4
    assert len(told.score("ssim/imagined").by_step) == 5
    by_hand = told.score("feature_mse/imagined").value / told.score("feature_mse/copying").value
    assert told.score("feature_error_over_copying").value == pytest.approx(by_hand)
    for side in ("imagined", "imagined_drawn", "decoder", "copying", "copying_drawn"):
        assert {f"{m}/{side}" for m in ("psnr", "ssim", "efficientnet_distance")} <= {s.name for s in told.scores}
    names = {score.name for score in told.scores}
    assert not any("lpips" in name or name.startswith("fvd") for name in names)
    assert {f"frechet_efficientnet/{side}" for side in PAIRS} <= names
    assert all((bench.out / name).is_file() for name in told.pictures)
    assert len(told.pictures) == 4


@pytest.mark.parametrize("measure", [measure_generation, measure_cycle])
def test_videos_of_two_sizes_are_judged_each_as_if_alone(bench, measure, widened):
    """As those of Something-Something-V2: a clip's score does not hang on the sizes of others."""
    wide = bench.pins.clips[0].episode
    mixed = replace(bench, held_frames=[widened(e) if e.id == wide else e for e in bench.held_frames])
    told, alone = (measure(each).score("psnr/copying").values for each in (mixed, bench))
    assert told == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("name", TABLES)
def test_it_is_the_same_each_time_to_the_last_digit_kept(bench, transforms, tmp_path, no_umap, name):
    if name == "sceptic":
        bench = moved(bench, transforms / "moving", tmp_path, tmp_path / "c", still=str(transforms / "still"))
    first, second = (TABLES[name].measure(bench).scores for _ in range(2))
    assert first
    assert [s for s in first if "frechet" not in s.name] == [s for s in second if "frechet" not in s.name]
    for one, other in zip(first, second, strict=True):
        if one.value is not None:
            assert one.value == pytest.approx(other.value, abs=1e-6, rel=1e-6)


def test_copying_is_that_of_the_last_context_frame(bench):
    told = measure_generation(replace(bench, settings=replace(SETTINGS, context=3, pictures=1)))
    errors = []
    for batch in bench.batches():
        errors.append((batch.e[:, 2:3] - batch.e[:, 3:]).square().mean((1, 2, 3, 4)))
    assert told.score("feature_mse/copying").values == pytest.approx(torch.cat(errors).tolist(), rel=1e-5)
    assert len(told.score("psnr/imagined").by_step) == 3


def test_probes_have_their_controls_and_learning_curves(bench, monkeypatch):
    monkeypatch.setattr(probing, "CURVE", (12, 48, 96))
    told = measure_probe(bench)
    for name in ("z", "untrained", "features", "shuffled"):
        for kind in ("ridge", "mlp"):
            score = told.score(f"r2/{name}/{kind}")
            assert score.low <= score.value <= score.high
            assert len(told.score(f"mse/{name}/{kind}").values) == len(told.rows)
    assert told.score("r2/z/ridge/agent_x").value == told.score("r2/z/ridge").value
    assert told.steps == (12, 48)  # there are 48 pairs
    for score in told.scores:
        if score.name.startswith(("r2/", "mse/")) and "shuffled" not in score.name and score.low is not None:
            curve = told.score(score.name.replace("/", "_by_pairs/", 1))
            assert len(curve.by_step) == len(curve.low_by_step) == len(curve.high_by_step) == 2
            ends = (curve.by_step, curve.low_by_step, curve.high_by_step)
            assert [end[1] for end in ends] == [score.value, score.low, score.high]
            assert curve.low_by_step[0] < curve.by_step[0] < curve.high_by_step[0]
    assert sum("_by_pairs/" in score.name for score in told.scores) == 2 * 2 * 3
    monkeypatch.setattr(probing, "CURVE", (96,))
    assert not any("_by_pairs" in score.name for score in measure_probe(bench).scores)


def test_the_untrained_control_is_another_model_of_the_same_config(bench):
    model = bench.world.model
    blank = untrained_like(model, 0)
    assert blank.config == model.config
    assert any(not torch.equal(a, b) for a, b in zip(blank.parameters(), model.parameters(), strict=True))
    again = untrained_like(model, 0)
    assert all(torch.equal(a, b) for a, b in zip(blank.parameters(), again.parameters(), strict=True))
    assert untrained_like(Plain(), 0) is None


def test_targets_are_those_of_the_transition():
    told = {"action": torch.arange(12.0).reshape(1, 3, 2, 2), "state": torch.tensor([[[0.0], [1.0], [4.0]]])}
    action, state = components("action", (), 2, {}), components("state", (), 1, {})
    assert targets(told, action, False).tolist() == [[[1, 2], [5, 6], [9, 10]]]
    assert targets(told, state, True).tolist() == [[[1], [3]]]
    assert targets(told, state, False).tolist() == [[[0], [1]]]
    with pytest.raises(DilaError, match="--column state --change"):
        targets(told, action, True)


def test_an_angle_is_read_as_sine_and_cosine_and_its_change_the_shorter_way_round():
    names = {"state": ("x", "yaw"), "action": ("dyaw",)}
    told = {"state": torch.tensor([[[0.0, 3.1], [1.0, -3.1]]]), "action": torch.full((1, 1, 2, 1), 4.0)}
    state, action = components("state", ("1", "x"), 2, names), components("action", (), 1, names)
    changes, values = targets(told, state, True)[0], targets(told, state, False)[0]
    assert changes[0].tolist() == pytest.approx([2 * torch.pi - 6.2, 1], abs=1e-5)
    assert values[0].tolist() == pytest.approx([math.sin(3.1), math.cos(3.1), 0], abs=1e-6)
    assert target_names(state, True) == ["yaw", "x"]
    assert target_names(state, False) == ["sin yaw", "cos yaw", "x"]
    for y, change, turn in ((changes, True, 2 * torch.pi - 6.2), (values, False, 3.1)):
        assert float(radians(y, state, change)["yaw"]) == pytest.approx(turn, abs=1e-5)
    assert targets(told, action, False).item() == float(radians(torch.tensor([[4.0]]), action, False)["dyaw"]) == 4


def test_one_step_by_the_verbs_is_the_models_teacher_forcing(bench):
    batch, model = next(bench.batches()), bench.world.model
    verbs = SimpleNamespace(infer=model.infer, start=model.start, step=model.step)
    with bench.world.running():
        z = infer_long(model, batch.e, batch.e.shape[1])
        e_hat = model(batch.e).e_hat
        torch.testing.assert_close(one_step(verbs, batch.e, z), e_hat)
        torch.testing.assert_close(one_step(model, batch.e, z), e_hat)


def test_the_ablations_rollout_is_that_of_the_rollouts_in_pixels_too(bench):
    """Table 2 has the LPIPS of both; features and pixels of one set of frames, under the name of what predicted it."""
    told, rollouts = measure_cycle(bench), measure_generation(bench)
    for name in ("feature_mse", "psnr", "ssim", "efficientnet_distance"):
        assert told.score(f"{name}/rollout").values == pytest.approx(
            rollouts.score(f"{name}/imagined").values, rel=1e-4
        )
        assert told.score(f"{name}/copying").values == pytest.approx(rollouts.score(f"{name}/copying").values, rel=1e-4)
        # The first frame of a rollout follows a true one.
        first = [told.score(f"{name}/{side}").by_step[0] for side in ("one_step", "rollout")]
        assert first[0] == pytest.approx(first[1], rel=1e-3)
        assert len(told.score(f"{name}/cycle").values) == len(told.rows)


def test_partners_are_of_other_episodes():
    owners = [0, 0, 0, 1, 2, 2]
    assert all(owners[other] != owners[i] for i, other in enumerate(partners(owners)))
    with pytest.raises(DilaError, match="the same episode"):
        partners([3, 3])


def test_all_tables_of_a_recording_go_into_one_file_and_are_not_made_again(bench, tmp_path, no_umap, monkeypatch):
    out = tmp_path / "evaluation.json"
    results = {told.what: told for told in measure_some(bench, list(TABLES), out)}
    assert list(results) == list(TABLES)
    for name in ("cycle", "disentangle", "motion", "manifold", "transfer"):
        assert results[name].scores, results[name].notes
        assert all((bench.out / picture).is_file() for picture in results[name].pictures)
    assert "background" in results["sceptic"].notes[0]  # Push-T has none: written down, and no reason to stop
    assert {"feature_mse/rollout", "feature_mse/one_step", "ssim/cycle", "z_cosine"} <= {
        score.name for score in results["cycle"].scores
    }
    assert {"r2/agent_x/s", "r2/agent_x/c_mem", "r2/change of agent_x/z", "r2/change of agent_x/de"} <= {
        score.name for score in results["disentangle"].scores
    }
    assert 0 <= results["motion"].score("look_distance").value <= 1
    assert 0 <= results["motion"].score("layout_distance/agent_x/s").value <= 1
    for name in set(TABLES) - {"sceptic"}:
        not_again(monkeypatch, name)
    wanted = [name for name in TABLES if name != "sceptic"]
    assert measure_some(bench, wanted, out) == [results[name] for name in wanted]


def test_a_table_of_another_version_is_made_again(bench, tmp_path, monkeypatch):
    out, made = tmp_path / "evaluation.json", []

    def measure(bench):
        made.append(bench)
        return bench.finish("cycle", 0.0, [Score("z_cosine", 0.5)])

    for version in (1, 1, 2, 2):
        monkeypatch.setitem(TABLES, "cycle", TABLES["cycle"]._replace(measure=measure, version=version))
        (result,) = measure_some(bench, ["cycle"], out)
        assert (result.version, len(made)) == (version, version)


def not_again(monkeypatch, name):
    monkeypatch.setitem(TABLES, name, TABLES[name]._replace(measure=lambda bench: pytest.fail("it was made again")))


def test_the_table_at_hand_is_told_while_it_is_made(bench, tmp_path, monkeypatch, capsys):
    def cycle(bench):
        assert "cycle:   0%" in capsys.readouterr().err
        raise DilaError("none here")

    monkeypatch.setitem(TABLES, "cycle", TABLES["cycle"]._replace(measure=cycle))
    with pytest.raises(DilaError, match="none here"):
        measure_some(bench, ["cycle"], tmp_path / "e.json", progress=True)


def test_known_transforms_have_classes_colours_and_a_plane(bench, transforms, tmp_path, no_umap):
    made = moved(bench, transforms / "moving", tmp_path / "p", tmp_path / "c", still=str(transforms / "still"))
    results = {
        told.what: told for told in measure_some(made, ["disentangle", "manifold", "sceptic"], tmp_path / "e.json")
    }
    names = {score.name for score in results["disentangle"].scores}
    assert {"r2/colour/c", "r2/x/s", "r2/change of x/z"} <= names
    assert any(name.startswith("accuracy/shape/") for name in names)
    manifold = results["manifold"]
    assert {"r2/dx", "angular_correlation/direction", "trustworthiness/z_of_truth"} <= {s.name for s in manifold.scores}
    assert "UMAP" in manifold.notes[0]
    sceptic = results["sceptic"]
    assert {"r2/action/z", "r2/background/z", "r2/place of object/s", "selectivity/z"} <= {
        s.name for s in sceptic.scores
    }
    assert -1 <= sceptic.score("twins/z_cosine").value <= 1


def test_without_latent_actions_s_and_c_are_probed_all_the_same(bench, tmp_path):
    own = load_pretrained(bench.subject.path)
    silent = DiLA(replace(own.model.config, bottleneck=NoAction()))
    save_pretrained(tmp_path / "silent", own._replace(model=silent, decoder=None))
    folder = Path(bench.data).parent / "features"
    options = {"device": "cpu", "held_out": 0.5, "pins": bench.pins, "cache_dir": folder}
    told = measure_disentangle(open_bench(tmp_path / "silent", bench.data, tmp_path, SETTINGS, **options))
    names = {score.name for score in told.scores}
    assert {"r2/agent_x/s", "r2/agent_x/c", "r2/change of agent_x/ds"} <= names
    assert not any(name.endswith("/z") for name in names)
    assert told.notes[0].startswith("z is omitted")


def test_a_still_background_is_no_test_of_the_sceptics(bench, transforms, tmp_path):
    made = moved(bench, transforms / "still", tmp_path / "p", tmp_path / "c")
    with pytest.raises(DilaError, match="--moving-background"):
        measure_sceptic(made)


def test_a_model_without_structure_is_told_so(bench):
    world = bench.world
    other = replace(bench, world=type(world)(Plain(), world.encoder, None, world.stride, world.frames))
    with pytest.raises(DilaError, match="motion needs a model with structure and content"):
        dila_of(other, "motion")
    told = measure_generation(other)
    assert "no decoder" in told.notes[0]
    assert {score.name.split("/")[0] for score in told.scores} == {"feature_error_over_copying", "feature_mse"}


def test_a_column_that_is_not_there_is_refused_with_those_that_are(bench):
    with pytest.raises(DilaError, match="they have action, state"):
        measure_probe(replace(bench, settings=replace(SETTINGS, column="force")))
    with pytest.raises(DilaError, match="no component elbow; it has agent_x"):
        measure_probe(replace(bench, settings=replace(SETTINGS, components=("elbow",))))


@pytest.mark.parametrize("measure", [measure_probe, measure_manifold, measure_disentangle, measure_motion])
def test_of_a_value_that_is_not_known_the_row_is_left_out(bench, measure, no_umap):
    def partly(episode):
        state = episode.columns["state"].copy()
        state[3, 0] = math.nan
        return replace(episode, columns=episode.columns | {"state": state})

    sides = {side: [partly(episode) for episode in getattr(bench, side)] for side in ("train", "held")}
    told = measure(replace(bench, **sides))
    whole = measure(bench)
    assert [score.name for score in told.scores] == [score.name for score in whole.scores]
    assert all(score.value is None or math.isfinite(score.value) for score in told.scores)


@pytest.mark.parametrize("measure", [measure_probe, measure_manifold])
def test_a_column_of_classes_is_no_number_to_probe_for(bench, measure, no_umap):
    def labelled(episode):
        return replace(episode, columns=dict(episode.columns) | {"label": np.ones((len(episode.times), 1), np.int64)})

    sides = {side: [labelled(episode) for episode in getattr(bench, side)] for side in ("train", "held")}
    named = replace(bench, settings=replace(SETTINGS, column="label", components=()), **sides)
    with pytest.raises(
        DilaError, match=r"column 'label' of .* contains classes, not numbers; use dila eval disentangle"
    ):
        measure(named)


@pytest.mark.parametrize("measure", [measure_probe, measure_manifold])
def test_a_component_that_is_constant_is_named(bench, measure, no_umap):
    def still(episode):
        state = episode.columns["state"].copy()
        state[:, 4] = 1
        return replace(episode, columns=episode.columns | {"state": state})

    sides = {side: [still(episode) for episode in getattr(bench, side)] for side in ("train", "held")}
    flat = replace(bench, settings=replace(SETTINGS, components=("block_angle",), change=False), **sides)
    with pytest.raises(DilaError, match=r"column 'state' of .*: block_angle is constant in the held-out episodes"):
        measure(flat)
    if measure is measure_manifold:
        told = measure(replace(flat, settings=replace(flat.settings, components=("block_angle", "agent_x"))))
        assert told.notes[0] == (
            "true parameters omitted, because constant in the held-out episodes: sin block_angle, cos block_angle"
        )


def test_of_a_constant_z_there_is_no_plane(bench, no_umap, monkeypatch):
    monkeypatch.setattr(bench.world.model, "infer", lambda e: torch.full((len(e), e.shape[1] - 1, 4), 0.1))
    told = measure_manifold(bench)
    assert told.pictures == {}
    assert told.notes == ("plots of z are omitted: z is constant in the held-out episodes",)


def test_a_model_without_a_decoder_borrows_one_that_sees_the_same(bench, tmp_path):
    own = load_pretrained(bench.subject.path)
    save_pretrained(tmp_path / "blind", own._replace(decoder=None))
    options = {"device": "cpu", "held_out": 0.5, "pins": bench.pins}
    folder = Path(bench.data).parent / "features"
    seeing = open_bench(
        tmp_path / "blind", bench.data, tmp_path, SETTINGS, decoder=bench.subject.path, cache_dir=folder, **options
    )
    assert seeing.world.decoder.config() == bench.world.decoder.config()
    statistics = own.encoder.statistics
    other = replace(statistics, mean=statistics.mean + 1)
    save_pretrained(tmp_path / "other", own._replace(encoder=own.encoder.with_statistics(other)))
    with pytest.raises(DilaError, match="has another encoder or other feature statistics"):
        borrow_decoder(tmp_path / "other", bench.world, "cpu")
    with pytest.raises(DilaError, match="blind has no decoder"):
        borrow_decoder(tmp_path / "blind", bench.world, "cpu")


def test_on_the_command_line(first_look, exported, tmp_path, capsys):
    data, pins = str(first_look.folder / "pusht"), tmp_path / "pins.json"
    assert main(["eval", "pin", data, "--out", str(pins), "--frames", "6", "--clips", "3", "--held-out", "0.5"]) == 0
    assert "pinned 3 clips of 6 frames in 3 of 6 held-out episodes" in capsys.readouterr().out
    out = tmp_path / "evaluation.json"
    arguments = ["eval", "transfer", str(exported), data, "--pins", str(pins), "--out", str(out)]
    more = [
        "--held-out",
        "0.5",
        "--device",
        "cpu",
        "--cache-dir",
        str(first_look.folder / "features"),
        "--source",
        str(shutil.copytree(data, tmp_path / "elsewhere")),
    ]
    assert main([*arguments, *more, "--name", "ours", "--run-seed", "4", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["subject"]["name"], told["subject"]["seed"]) == ("ours", 4)
    assert told["pins"] == json.loads(pins.read_text())["hash"]
    assert (tmp_path / "pictures" / "transfer.mp4").is_file()
    assert json.loads(out.read_text())["results"] == [told]
    assert main([*arguments, *more[:-1], f"{data}/"]) == 2
    assert "which supplies the actions by default; omit --source" in capsys.readouterr().err
    assert main([*arguments, *more, "--context", "6"]) == 2
    assert "leaves no frame to predict" in capsys.readouterr().err
    assert main(["eval", "all", *arguments[2:4], "--tables", "elbow"]) == 2
    assert "there is no elbow" in capsys.readouterr().err
