import json
import re
import shutil
import signal
from dataclasses import dataclass, fields, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from train_world import PatchConfig, PatchEncoder, after, small_model, small_run, stop_at, write_corpus

from dila import vision
from dila.data import open_corpus, split_episodes
from dila.data.mixture import Mixture
from dila.errors import DilaError, MissingExtra
from dila.interop.models import MODELS
from dila.interop.pretrained import load_pretrained
from dila.interop.seen import hash_content, read_seen
from dila.model.dila import DiLA
from dila.train import begin, loop, register
from dila.train.checkpoint import newest
from dila.train.folder import find_run
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.objectives import ActionConditioned, Batch, OneStep, Outcome, Rollout, Terms, Weights
from dila.train.register import REGISTER, read_trained
from dila.train.run import ClipSettings, DecoderRun, Guard, Optimiser, Stage


@pytest.fixture
def go(corpus, cache, tmp_path):
    def run_it(run, out="out", **more):
        return train(run, corpus, tmp_path / out, cache_dir=cache, progress=False, **more)

    return run_it


@pytest.fixture(scope="module")
def whole(corpus, cache, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vision.ENCODERS, "patch", (PatchEncoder, PatchConfig))
        train(small_run(), corpus, out, cache_dir=cache, progress=False)
    return out


def without_clock(records):
    return [{key: value for key, value in record.items() if key != "clips_per_second"} for record in records]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_statistics_can_be_given_and_are_held_to_by_their_numbers(go, tmp_path):
    """As a RAE publishes them: channels first, a number a place."""
    mean, var = torch.randn(8, 4, 4), torch.rand(8, 4, 4) + 0.5
    torch.save({"mean": mean, "var": var}, tmp_path / "stat.pt")
    run = small_run(statistics=str(tmp_path / "stat.pt"))
    trained = load_pretrained(go(run)).encoder.statistics
    assert torch.equal(trained.mean, mean.permute(1, 2, 0))
    trained.save(tmp_path / "same.safetensors")
    go(replace(run, statistics=str(tmp_path / "same.safetensors")))
    torch.save({"mean": mean + 1, "var": var}, tmp_path / "stat.pt")
    for other in (run, small_run()):
        with pytest.raises(DilaError, match=r"a run with statistics = \"\w+\" \(now (\"\w+\"|null)\)"):
            go(other)


def test_statistics_that_do_not_fit_are_refused(go, tmp_path):
    torch.save({"mean": torch.zeros(3), "var": torch.ones(3)}, tmp_path / "stat.pt")
    with pytest.raises(DilaError, match=r"stat\.pt has statistics of 3 features, but the encoder gives 4 x 4 x 8"):
        go(small_run(statistics=str(tmp_path / "stat.pt")))
    with pytest.raises(DilaError, match="the model in start has its own statistics"):
        small_run(statistics="stat.pt", start="runs/a")


@pytest.mark.parametrize(("step", "number", "code"), [(2, signal.SIGTERM, 143), (4, signal.SIGINT, 130), (5, 15, 143)])
def test_an_interrupted_run_goes_on_bit_for_bit(go, whole, tmp_path, monkeypatch, step, number, code):
    with monkeypatch.context() as patch:
        stop_at(patch, step, number)
        with pytest.raises(SystemExit) as stopped:
            go(small_run())
    assert stopped.value.code == code
    assert newest(tmp_path / "out").name == f"step_{step:07d}"
    torch.rand(7)
    end = go(small_run())
    assert without_clock(read_log(tmp_path / "out")) == without_clock(read_log(whole))
    assert same(load_pretrained(end).model.state_dict(), load_pretrained(whole).model.state_dict())
    assert same_trainer(end, newest(whole))


def test_what_is_gone_on_with_is_loaded_once_and_the_register_read_once_a_run(go, monkeypatch):
    loads, reads = [], []
    monkeypatch.setattr(loop, "load_pretrained", lambda path: loads.append(path) or load_pretrained(path))
    monkeypatch.setattr(register, "read_trained", lambda out: reads.append(out) or read_trained(out))
    with monkeypatch.context() as patch:
        stop_at(patch, 2, signal.SIGTERM)
        with pytest.raises(SystemExit):
            go(small_run())
    end = go(small_run(checkpoint_every=1))
    assert (len(loads), len(reads)) == (1, 2)
    assert read_seen(end).hashes


def test_a_path_from_home_is_spelt_out(corpus, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").symlink_to(corpus)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = small_run(stages=(Stage(OneStep(), steps=1),))
    last = train(run, "~/data", "~/out", cache_dir="~/cache", progress=False)
    assert last.parent.parent == tmp_path / "out"
    load_pretrained("~/out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "data", "elsewhere", "out"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_another_process_trains_is_left_to_it(go, held, tmp_path):
    with held(tmp_path / "out"), pytest.raises(DilaError, match=r"another process works on .*out; wait for it"):
        go(small_run())
    assert not (tmp_path / "out").exists()


def test_stages_go_through_the_clips_as_one_would(go, tmp_path, monkeypatch):
    get, drawn = Mixture.__getitem__, {}
    two, one = (Stage(OneStep(), steps=2), Stage(OneStep(), steps=3, lr=0.5)), (Stage(OneStep(), steps=5),)
    for name, stages in {"two": two, "one": one, "rolled out": (two[0], Stage(Rollout(), steps=2, frames=3))}.items():
        numbers = drawn.setdefault(name, [])
        monkeypatch.setattr(Mixture, "__getitem__", lambda self, n, seen=numbers: seen.append(n) or get(self, n))
        go(small_run(stages=stages), out=tmp_path / name)
    assert drawn["two"] == drawn["one"]
    assert drawn["rolled out"][8:12] != drawn["one"][:4]  # other clips, as they are shorter: the next epoch of them


def same_trainer(one, other):
    a, b = (torch.load(folder / "trainer.pt", weights_only=True) for folder in (one, other))
    states = zip(a["optimiser"]["state"].values(), b["optimiser"]["state"].values(), strict=True)
    return a["sampler"] == b["sampler"] and all(same(x, y) for x, y in states)


def test_what_train_returns_is_what_the_run_folder_loads_as(whole):
    record = json.loads((newest(whole) / "config.json").read_text())
    told = {"run": "test", "step": 6, "steps": 6, "stage": "Rollout"}
    assert record["notes"] == told | {"trained": record["notes"]["trained"]}
    pretrained = load_pretrained(whole)
    assert (pretrained.stride, pretrained.frames) == (0.2, 4)
    assert pretrained.encoder.statistics is not None


def test_the_log_names_the_losses_as_the_weights_do(whole):
    steps = [record for record in read_log(whole) if record["kind"] == "train"]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record["stage"] for record in steps] == ["OneStep"] * 4 + ["Rollout"] * 2
    names = {field.name for field in fields(Weights)} - {"kl"}  # of a Gaussian bottleneck alone
    around = {"kind", "step", "stage", "lr", "total", "grad_norm", "clips_per_second"}
    around |= {"scale_s", "scale_z", "rank_z", "skipped_clips"}
    for record in steps:
        assert set(record) == names | around
        weighted = sum(getattr(Weights(), name) * record[name] for name in names)
        assert record["total"] == pytest.approx(weighted, rel=1e-5)


def test_evaluations_are_ratios_by_frame_with_a_picture_each(whole):
    seen = [record for record in read_log(whole) if record["kind"] == "evaluation"]
    assert [record["step"] for record in seen] == [3, 6]
    for record in seen:
        assert record["on"] == "held out"
        assert len(record["rollout_ratio_by_frame"]) == len(record["one_step_ratio_by_frame"]) == 3
        # The first frame of a rollout is the first teacher-forced one, and so is what it could have copied.
        assert record["rollout_ratio_by_frame"][0] == pytest.approx(record["one_step_ratio_by_frame"][0], rel=1e-4)
        assert 0 < record["rollout_ratio"] < 2
        assert (whole / "pictures" / f"step_{record['step']:07d}.png").is_file()


def test_another_run_in_the_same_folder_is_refused_by_field(go, tmp_path):
    go(small_run())
    with pytest.raises(DilaError, match=r"optimiser\.lr = 0\.001 \(now 0\.002\); seed = 0 \(now 1\)"):
        go(small_run(seed=1, optimiser=Optimiser(lr=2e-3, warmup=2, schedule="cosine")))
    longer = tuple(replace(stage, steps=stage.steps + 1) for stage in small_run().stages)
    with pytest.raises(DilaError, match=r"stages\.0\.steps = 4 \(now 5\); stages\.1\.steps = 2 \(now 3\); use"):
        go(small_run(stages=longer))
    with pytest.raises(DilaError, match="already contains a run"):
        go(small_run(), resume=False)
    before = read_log(tmp_path / "out")
    go(small_run(keep=1, checkpoint_minutes=0.0))
    assert read_log(tmp_path / "out") == before


DECODER = DecoderRun(steps=3, batch=4, size=16, width=8, max_width=8, frames=20)


@pytest.mark.parametrize("decoder", [None, DECODER])
def test_a_command_that_was_refused_holds_no_folder(go, tmp_path, decoder):
    with pytest.raises(DilaError, match="batch = 4 is not a multiple"):
        go(small_run(accumulate=3, decoder=decoder))
    assert (tmp_path / "out" / "run.json").is_file()
    go(small_run(accumulate=2, decoder=decoder), resume=decoder is not None)


def test_a_decoder_that_was_trained_first_goes_on_with_its_own_frames_alone(go):
    with pytest.raises(DilaError, match="batch = 4 is not a multiple"):
        go(small_run(accumulate=3, decoder=DECODER))
    clips = replace(small_run().clips, held_out=0.4)
    with pytest.raises(DilaError, match=r"a run with clips\.held_out = 0\.2 \(now 0\.4\); use the same"):
        go(small_run(clips=clips, decoder=DECODER))
    with pytest.raises(DilaError, match="already contains a run"):
        go(small_run(decoder=DECODER), resume=False)


class Killed(BaseException):
    pass


def test_before_the_first_checkpoint_a_run_holds_to_its_data_too(go, corpus, cache, tmp_path, monkeypatch):
    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        after(patch, 3, kill)
        with pytest.raises(Killed):
            go(small_run(decoder=DECODER))
    assert newest(tmp_path / "out") is None
    other = write_corpus(tmp_path / "other")
    held_to = (tmp_path / "out" / REGISTER).read_bytes()
    trained = next(row["episode"] for row in pq.read_table(tmp_path / "out" / REGISTER).to_pylist())
    for picture in (other / trained).glob("*.png"):
        Image.new("RGB", (16, 16), "blue").save(picture)
    with pytest.raises(DilaError, match=rf"1 of 4 are missing or changed, the first {trained}, before its first check"):
        train(small_run(decoder=DECODER), other, tmp_path / "out", cache_dir=cache, progress=False)
    assert (tmp_path / "out" / REGISTER).read_bytes() == held_to
    assert go(small_run(decoder=DECODER)).name == "step_0000006"


def test_what_a_stage_cannot_start_from_is_told_before_the_decoder_is_trained(go, whole, tmp_path):
    wider = small_run(model=replace(small_model(), action_dim=6), start=str(whole), decoder=DECODER)
    with pytest.raises(DilaError, match="has a different architecture"):
        go(wider)
    assert not (tmp_path / "out" / "decoder").exists()


def test_actions_that_changed_are_not_gone_on_with(go, cache, tmp_path, monkeypatch):
    data = write_corpus(tmp_path / "data")
    run = small_run(stages=(Stage(ActionConditioned(), steps=3),), tolerate=0.0)

    def going(run, out):
        return train(run, data, tmp_path / out, cache_dir=cache, progress=False)

    without = small_run(tolerate=0.0)
    for each, out in ((run, "with"), (without, "without")):
        with monkeypatch.context() as patch:
            stop_at(patch, 1, signal.SIGTERM)
            with pytest.raises(SystemExit):
                going(each, out)
    table = pq.read_table(data / "actions.parquet")
    columns = table.to_pydict()
    columns["action"][0][0] += 1.0
    pq.write_table(pa.Table.from_pydict(columns, table.schema), data / "actions.parquet")
    with pytest.raises(DilaError, match=r"1 of 4 are missing or changed, the first episode_0"):
        going(run, "with")
    going(without, "without")
    older = pq.read_table(tmp_path / "with" / REGISTER).drop_columns(["actions"])
    pq.write_table(older, tmp_path / "with" / REGISTER)
    going(run, "with")


def test_training_leaves_the_callers_settings_alone(go, monkeypatch):
    torch.manual_seed(7)
    state, told = torch.get_rng_state(), (torch._dynamo.config.suppress_errors, torch._dynamo.config.recompile_limit)
    monkeypatch.setattr("dila.train.learner._layers", lambda model: ())
    seen = []

    def kill(trainer):
        seen.append(torch._dynamo.config.suppress_errors)
        raise Killed

    monkeypatch.setattr(loop.Trainer, "run_all", kill)
    with pytest.raises(Killed):
        go(small_run(compile=True))
    assert seen == [True]
    assert torch.initial_seed() == 7
    assert torch.equal(torch.get_rng_state(), state)
    assert (torch._dynamo.config.suppress_errors, torch._dynamo.config.recompile_limit) == told


@pytest.mark.parametrize("name", ["run.json", REGISTER, "log.jsonl"])
def test_a_damaged_file_of_a_run_is_one_sentence(go, whole, tmp_path, name):
    shutil.copytree(whole, tmp_path / "out")
    path = tmp_path / "out" / name
    for content in ("", "[1, 2]\n", '{"clips": 3}\n'):
        path.write_text(content)
        if (name, content) == ("log.jsonl", ""):
            continue
        with pytest.raises(DilaError, match=re.escape(str(path))) as told:
            go(small_run())
        assert "\n" not in str(told.value)
    if name == "run.json":
        with pytest.raises(DilaError, match=r"run\.json does not describe a run; remove it; the command"):
            find_run(whole.parent / tmp_path / "out" / "checkpoints" / "step_0000006")


@dataclass(frozen=True)
class Own:
    """An objective of a user's own."""

    weight: float = 1.0

    def __call__(self, model: DiLA, batch: Batch) -> Outcome:
        outcome = OneStep()(model, batch)
        return outcome._replace(total=outcome.total * self.weight)


def test_a_run_with_an_objective_of_ones_own_goes_on(go, tmp_path, monkeypatch):
    run = small_run(stages=(Stage(Own(0.5), steps=3), Stage(OneStep(), steps=2)))
    with monkeypatch.context() as patch:
        stop_at(patch, 2, signal.SIGTERM)
        with pytest.raises(SystemExit):
            go(run)
    last = go(run)
    assert go(run) == last
    assert load_pretrained(tmp_path / "out").frames == 4
    with pytest.raises(DilaError, match=r"stages\.0\.objective\.weight = 0\.5 \(now 0\.25\)"):
        go(replace(run, stages=(Stage(Own(0.25), steps=3), run.stages[1])))


def test_other_data_is_refused(go, corpus, tmp_path, cache):
    go(small_run())
    (tmp_path / "fewer").mkdir()
    for number in range(3):
        (tmp_path / "fewer" / f"episode_{number}").symlink_to(corpus / f"episode_{number}")
    with pytest.raises(DilaError, match="other episodes"):
        train(small_run(), tmp_path / "fewer", tmp_path / "out", cache_dir=cache, progress=False)


def test_old_checkpoints_go_and_the_newest_stay(go, tmp_path):
    go(small_run(checkpoint_every=1, keep=2))
    left = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert left == ["step_0000005", "step_0000006"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(go, tmp_path):
    stages = (Stage(OneStep(), steps=2), Stage(OneStep(), steps=4, lr=1e38))
    run = small_run(stages=stages, checkpoint_every=1, optimiser=Optimiser(lr=1e-3), guard=None)
    with pytest.raises(DilaError, match=r"finite .*the last good checkpoint is .*step_0000002"):
        go(run)
    assert newest(tmp_path / "out").name == "step_0000002"
    weights = load_pretrained(tmp_path / "out").model.state_dict().values()
    assert all(bool(x.isfinite().all()) for x in weights)


def test_the_loss_that_is_not_finite_is_named(go, monkeypatch):
    monkeypatch.setattr("dila.train.objectives.norm_loss", lambda z: z.float().sum() * float("nan"))
    with pytest.raises(DilaError, match=r"the loss norm is not finite at step 1; there is no checkpoint yet"):
        go(small_run())


def test_dead_latents_stop_the_run(go, tmp_path):
    with pytest.raises(DilaError, match="scale_z stayed below 10 for 2 logged steps up to step 4"):
        go(small_run(guard=Guard(scale=10.0, patience=2), checkpoint_every=1))
    assert newest(tmp_path / "out").name == "step_0000002"  # warm-up: nothing was suspicious yet


def test_a_run_that_stopped_while_its_latents_were_dying_is_not_more_patient_afterwards(go, monkeypatch):
    run = small_run(guard=Guard(scale=10.0, patience=2))
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit):
            go(run)
    with pytest.raises(DilaError, match="scale_z stayed below 10 for 2 logged steps up to step 4"):
        go(run)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_is_the_same_step(go, tmp_path, accumulate):
    terms = Terms(Weights(feature=1.0, structure=0.1, action=0.1, diversity=0.0, norm=0.0, symmetry=0.0))
    model = replace(small_model(), dropout=0.0)
    model = replace(model, idm=replace(model.idm, dropout=0.0), fdm=replace(model.fdm, dropout=0.0))
    run = small_run(stages=(Stage(OneStep(terms, shown=0.5), steps=3),), model=model)
    go(run, "one")
    go(replace(run, accumulate=accumulate), "parts")
    for one, parts in zip(read_log(tmp_path / "one"), read_log(tmp_path / "parts"), strict=True):
        if one["kind"] == "train":
            assert (parts["total"], parts["grad_norm"]) == pytest.approx((one["total"], one["grad_norm"]), rel=1e-3)
    with pytest.raises(DilaError, match="batch = 4 is not a multiple"):
        go(replace(run, accumulate=3), "odd")


def test_loader_processes_change_nothing(go, whole, tmp_path):
    go(small_run(workers=1))
    assert without_clock(read_log(tmp_path / "out")) == without_clock(read_log(whole))


def test_without_a_cache_frames_are_encoded_in_the_loop(go, whole, tmp_path):
    go(small_run(cache=False))
    totals = [[r["total"] for r in read_log(out) if r["kind"] == "train"] for out in (tmp_path / "out", whole)]
    assert totals[0] == pytest.approx(totals[1], rel=0.05)  # the cache keeps bf16


def test_training_from_the_cache_never_makes_the_encoders_network(go, whole, tmp_path, monkeypatch):
    class Missing(PatchEncoder):
        def __init__(self, config=PatchConfig(), statistics=None):  # noqa: B008
            super().__init__(config, statistics)
            self.made_by(lambda: pytest.fail("the network was made"))

    monkeypatch.setitem(vision.ENCODERS, "patch", (Missing, PatchConfig))
    go(small_run())
    assert without_clock(read_log(tmp_path / "out")) == without_clock(read_log(whole))


def test_bf16_trains_on_the_cpu_in_fp32_weights(go, tmp_path):
    end = go(small_run(precision="bf16"))
    assert {x.dtype for x in load_pretrained(end).model.parameters()} == {torch.float32}


def test_real_actions_drive_the_third_stage_and_the_artifact_takes_them_raw(go, tmp_path, monkeypatch):
    seen = []
    raw = loop.Trainer._evaluate

    def peek(self, log):
        a = torch.tensor([[[3.0, -2.0, 0.0, 1.0], [1.0, 1.0, -1.0, 2.0]]])
        self.learner.eval()
        scaled = (a - self.learner.action_mean) / self.learner.action_std
        seen.append((a, self.learner.model.encode_actions(scaled).detach()))
        self.learner.train()
        raw(self, log)

    monkeypatch.setattr(loop.Trainer, "_evaluate", peek)
    stages = (Stage(OneStep(), steps=2), Stage(Rollout(), steps=1), Stage(ActionConditioned(), steps=3))
    run = small_run(stages=stages)
    end = go(run)
    pretrained = load_pretrained(end)
    assert pretrained.model.config.real_action_dim == 4  # a stride of two frames, two numbers each
    torch.testing.assert_close(pretrained.model.encode_actions(seen[-1][0]), seen[-1][1], atol=1e-5, rtol=1e-4)
    assert "action_rollout_ratio" in read_log(tmp_path / "out")[-1]

    go(run, "again")  # a model that already reads raw actions goes on to
    more = replace(run, stages=(Stage(ActionConditioned(), steps=1, lr=0.0),), start=str(end))
    after = load_pretrained(go(more, "more")).model
    torch.testing.assert_close(after.encode_actions(seen[-1][0]), seen[-1][1], atol=1e-5, rtol=1e-4)


def test_resuming_the_action_stage_is_exact(go, tmp_path, monkeypatch):
    run = small_run(stages=(Stage(OneStep(), steps=1), Stage(ActionConditioned(), steps=3)))
    unbroken = load_pretrained(go(run, "unbroken")).model.state_dict()
    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit):
            go(run, "broken")
    assert same(load_pretrained(go(run, "broken")).model.state_dict(), unbroken)


def test_actions_that_are_not_there_are_asked_for(go, corpus, tmp_path, cache):
    (tmp_path / "plain").mkdir()
    for number in range(4):
        (tmp_path / "plain" / f"episode_{number}").symlink_to(corpus / f"episode_{number}")
    with pytest.raises(DilaError, match=r"needs true actions in actions\.parquet"):
        train(
            small_run(stages=(Stage(ActionConditioned(), steps=1),)), tmp_path / "plain", tmp_path / "out",
            cache_dir=cache, progress=False,
        )  # fmt: skip


def test_a_run_with_a_decoder_shows_frames_and_keeps_it(go, whole, tmp_path):
    end = go(small_run(decoder=DECODER))
    pretrained = load_pretrained(end)
    assert pretrained.decoder is not None
    assert pretrained.decoder.decode(torch.zeros(1, 2, 4, 4, 8)).shape == (1, 2, 3, 16, 16)
    assert without_clock(read_log(tmp_path / "out")) == without_clock(read_log(whole))  # it does not disturb the model


def test_a_run_can_start_from_a_trained_model(go, whole, tmp_path):
    run = small_run(stages=(Stage(Rollout(), steps=1, lr=0.0),), start=str(whole))
    assert same(load_pretrained(go(run)).model.state_dict(), load_pretrained(whole).model.state_dict())
    wider = small_run(model=replace(small_model(), action_dim=6), start=str(whole))
    with pytest.raises(DilaError, match="has a different architecture"):
        go(wider, "wider")


def test_whether_a_run_can_start_from_a_model_is_told_without_making_one(whole, monkeypatch):
    made, build = [], begin.build
    monkeypatch.setattr(begin, "build", lambda config: made.append(build(config)) or made[-1])
    begin.check_start(load_pretrained(whole).model, small_run(start=str(whole)))
    assert made
    assert all(parameter.is_meta for model in made for parameter in model.parameters())


@pytest.mark.parametrize(("odd", "told"), [("tied", r"tied and \w\S+ are the same parameter"), ("read", "device meta")])
def test_a_model_that_could_not_be_saved_and_loaded_is_not_trained(go, odd, told, monkeypatch, tmp_path):
    class Odd(DiLA):
        def __init__(self, config):
            super().__init__(config)
            if odd == "tied":
                self.tied = next(self.parameters())
            else:
                self.scale = float(next(self.parameters()).sum())

    monkeypatch.setitem(MODELS, "dila", MODELS["dila"]._replace(model=Odd))
    monkeypatch.setattr(loop, "gather", lambda *_, **__: pytest.fail("data were encoded for it"))
    with pytest.raises(DilaError, match=told):
        go(small_run())
    assert not (tmp_path / "out").exists()


def test_a_model_tells_what_it_and_those_before_it_were_trained_on(go, whole, corpus, tmp_path):
    first, hashes = read_seen(whole), {e.id: hash_content(e.fingerprint()) for e in open_corpus(corpus).episodes}
    train, held = split_episodes(open_corpus(corpus), 0.2)
    assert first == (0.2, {hashes[e.id] for e in train})
    clips = ClipSettings(frames=4, stride=0.2, held_out=0.6)
    second = go(small_run(stages=(Stage(Rollout(), steps=1),), clips=clips, start=str(whole)), "second")
    third = go(small_run(stages=(Stage(Rollout(), steps=1),), clips=clips, start=str(second)), "third")
    for end in (second, third):
        assert read_seen(end) == (0.6, first.hashes)
        assert hashes[held[0].id] not in read_trained(end.parent.parent).hashes


def test_with_nothing_held_out_training_clips_are_evaluated_and_said_to_be(go, tmp_path):
    go(small_run(stages=(Stage(OneStep(), steps=1),), clips=ClipSettings(frames=4, stride=0.2, held_out=0.0)))
    assert read_log(tmp_path / "out")[-1]["on"] == "training"


@dataclass(frozen=True)
class Ramped(OneStep):
    """Logs the share of steps done, as a loss with a schedule would read it."""

    name: str = "ramp"

    def __call__(self, model, batch):
        out = super().__call__(model, batch)
        return out._replace(losses={**out.losses, self.name: batch.done})


def test_a_loss_knows_how_much_of_the_run_is_done_also_in_parts_and_after_resuming(
    corpus, cache, tmp_path, monkeypatch
):
    run = small_run(stages=(Stage(Ramped(), 2), Stage(Ramped(), 2)), accumulate=2)
    stop_at(monkeypatch, 3, signal.SIGTERM)
    with pytest.raises(SystemExit):
        train(run, corpus, tmp_path, cache_dir=cache, progress=False)
    monkeypatch.undo()
    monkeypatch.setitem(vision.ENCODERS, PatchEncoder.name, (PatchEncoder, PatchConfig))
    train(run, corpus, tmp_path, cache_dir=cache, progress=False)
    assert [record["ramp"] for record in read_log(tmp_path) if record["kind"] == "train"] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("name", ["total", "lr", "scale_z", "step"])
def test_a_loss_does_not_take_the_name_of_what_is_logged_besides(corpus, cache, tmp_path, name):
    run = small_run(stages=(Stage(Ramped(name=name), 1),))
    with pytest.raises(DilaError, match=f"Ramped has a loss named {name}, which the log uses itself"):
        train(run, corpus, tmp_path, cache_dir=cache, progress=False)


@pytest.mark.parametrize(("tracker", "error", "told"), [
    ("mine", DilaError, "there is no 'mine'; choose from tensorboard, wandb, trackio"),
    ("wandb", MissingExtra, "wandb"),
])  # fmt: skip
def test_a_tracker_that_cannot_be_had_is_told_before_anything_else(tmp_path, monkeypatch, tracker, error, told):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(error, match=told):
        train(small_run(trackers=(tracker,)), tmp_path / "nowhere", tmp_path / "run", progress=False)
