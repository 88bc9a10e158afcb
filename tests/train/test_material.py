"""Training on several data sets."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from train_world import small_run, stop_at, write_corpus

from dila.data import open_corpus, write_table, write_video
from dila.errors import DilaError
from dila.interop.pretrained import load_pretrained
from dila.train.log import read_log
from dila.train.loop import train
from dila.train.material import Batches, Material, Split, action_statistics, gather, held, open_data, resolve
from dila.train.objectives import ActionConditioned, OneStep
from dila.train.run import ClipSettings, Stage
from dila.vision import HeldEpisode, build_encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures 16 x 16 ten times a second with two numbers of action, videos 24 x 32 twenty times with one."""
    root = tmp_path_factory.mktemp("data")
    columns = {}
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        frames = torch.randint(0, 255, (26, 3, 3, 4), generator=generator, dtype=torch.uint8)
        write_video(root / "b" / f"{number}.mp4", frames.repeat_interleave(8, -1).repeat_interleave(8, -2), 20)
        columns[f"{number}.mp4"] = {"action": np.ones((26, 1), np.float32)}
    write_table(root / "b" / "actions.parquet", columns, {})
    return [write_corpus(root / "a"), root / "b"]


def without_clock(out):
    return [{key: value for key, value in r.items() if key != "clips_per_second"} for r in read_log(out)]


def test_data_sets_of_other_sizes_and_rates_train_together_and_are_judged_apart(folders, cache, tmp_path, monkeypatch):
    run = small_run(weights=(0.3, 0.7))
    end = train(run, folders, tmp_path / "whole", cache_dir=cache, progress=False)
    seen = read_log(tmp_path / "whole")[-1]
    assert (seen["on"], seen["a/on"], seen["b/on"]) == ("held out",) * 3
    assert (seen["clips"], seen["a/clips"], seen["b/clips"]) == (6, 3, 3)
    both = (seen["a/rollout_ratio_by_frame"][0], seen["b/rollout_ratio_by_frame"][0])
    assert min(both) <= seen["rollout_ratio_by_frame"][0] <= max(both)
    assert both[0] != both[1]

    with monkeypatch.context() as patch:
        stop_at(patch, 3, signal.SIGTERM)
        with pytest.raises(SystemExit):
            train(run, folders, tmp_path / "out", cache_dir=cache, progress=False)
    with pytest.raises(DilaError, match=r"weights = \[0\.3, 0\.7\] \(now \[0\.5, 0\.5\]\)"):
        train(replace(run, weights=(0.5, 0.5)), folders, tmp_path / "out", cache_dir=cache, progress=False)
    (tmp_path / "out" / "run.json").unlink()
    with pytest.raises(DilaError, match="was trained on a, b, not on a; give the same data"):
        train(replace(run, weights=None), folders[:1], tmp_path / "out", cache_dir=cache, progress=False)
    (tmp_path / "out" / "run.json").unlink()
    again = train(replace(run, workers=1), folders, tmp_path / "out", cache_dir=cache, progress=False)
    assert without_clock(tmp_path / "out") == without_clock(tmp_path / "whole")
    one, other = (load_pretrained(x).model.state_dict() for x in (end, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_reach_the_batches(folders, cache):
    run = small_run(weights=(1.0, 3.0))
    corpora = open_data(run, folders)
    run = resolve(run, build_encoder(run.encoder), corpora)
    material = gather(run, build_encoder(run.encoder), corpora, cache, progress=False)
    batches = Batches(run, run.stages[0], material, torch.device("cpu"))
    clips = batches.loader.dataset.clips
    drawn = [clips.place(i)[0] for i in batches.sampler.order(0)]
    assert drawn.count(1) == pytest.approx(0.75 * len(drawn), abs=1)


def test_one_data_set_draws_as_it_always_has(folders, cache):
    run = small_run()
    encoder = build_encoder(run.encoder)
    material = gather(run, encoder, open_data(run, folders[0]), cache, progress=False)
    twice = Material(encoder, (Split("x", *material.splits[0][1:]),))
    orders = [Batches(r, run.stages[0], m, torch.device("cpu")).sampler.order(1) for r, m in (
        (run, material), (replace(run, weights=(5.0,)), twice),
    )]  # fmt: skip
    assert orders[0] == orders[1]


def test_actions_that_differ_between_data_sets_are_refused_by_name(folders, tmp_path, cache):
    run = small_run(stages=(Stage(OneStep(), steps=1), Stage(ActionConditioned(), steps=1)))
    with pytest.raises(DilaError, match=r"but data sets differ in it: a has 3 x 2 x 2, b has 3 x 4 x 1"):
        train(run, folders, tmp_path / "out", cache_dir=cache, progress=False)


@pytest.mark.parametrize(
    ("data", "weights", "told"),
    [
        (0, (0.5, 0.5), r"weights has 2 numbers for 1 data set\(s\)"),
        (1, (1.0,), r"weights has 1 numbers for 2 data set\(s\)"),
        (1, (1.0, 0.0), r"weights = 1 0 must all be above 0"),
        (2, None, "is given twice"),
        (3, None, "data is empty"),
    ],
)
def test_what_does_not_fit_is_refused(folders, tmp_path, cache, data, weights, told):
    chosen = (folders[0], folders, [folders[0], folders[0]], [])[data]
    with pytest.raises(DilaError, match=told):
        train(small_run(weights=weights), chosen, tmp_path / "out", cache_dir=tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_a_data_set_without_clips_is_refused_by_name(folders, tmp_path, cache):
    write_video(tmp_path / "short" / "x.mp4", torch.zeros(3, 3, 16, 16, dtype=torch.uint8), 10)
    with pytest.raises(DilaError, match=r"short: x\.mp4 lasts"):
        train(small_run(), [folders[0], tmp_path / "short"], tmp_path / "out", cache_dir=cache, progress=False)


def test_too_short_episodes_are_told_before_anything_is_encoded_and_who_was_looked_at(tmp_path, cache):
    for number in range(4):
        write_video(tmp_path / "short" / f"{number}.mp4", torch.zeros(3, 3, 16, 16, dtype=torch.uint8), 10)
    with pytest.raises(DilaError, match=r"among 2 training episodes; clips\.held_out holds out 2\)"):
        train(small_run(), tmp_path / "short", tmp_path / "out", cache_dir=cache, progress=False)
    assert not (tmp_path / "out").exists()


class Known:
    """An episode of three frames whose last action is not known."""

    id, times = "a", np.arange(3.0)
    columns = {"action": np.array([[0, 1], [2, 5], [np.nan, np.nan]], np.float32)}  # noqa: RUF012

    def read(self, frames):
        return torch.zeros(len(frames), 3, 2, 2, dtype=torch.uint8)

    def fingerprint(self):
        return self.id


def test_actions_that_are_not_known_do_not_count():
    mean, std = action_statistics([Known(), Known()], 2)
    torch.testing.assert_close(mean, torch.tensor([1.0, 3.0, 1.0, 3.0]))
    assert bool(std.isfinite().all())


def test_every_clip_of_a_step_has_its_place_in_any_process_and_part(folders, cache):
    run = small_run()
    encoder = build_encoder(run.encoder)
    material = gather(run, encoder, open_data(run, folders[0]), cache, progress=False)
    for world, accumulate in ((1, 1), (1, 4), (2, 1), (2, 2)):
        several = replace(run, accumulate=accumulate)
        shares = [Batches(several, run.stages[0], material, torch.device("cpu"), rank, world) for rank in range(world)]
        found = torch.cat([part.place for share in shares for part in next(iter(share))])
        assert found.tolist() == [0.125, 0.375, 0.625, 0.875]


def test_an_action_that_is_not_known_is_named_before_training(tmp_path, cache):
    data = write_corpus(tmp_path / "a")
    columns = {e.id: {"action": np.array(e.columns["action"])} for e in open_corpus(data).episodes}
    columns["episode_2"]["action"][[4, 13]] = np.nan  # the last moves nothing
    write_table(data / "actions.parquet", columns, {})
    run = small_run(stages=(Stage(OneStep(), steps=1), Stage(ActionConditioned(), steps=1)))
    with pytest.raises(DilaError, match="a: 1 actions of episode_2 are not finite, the first at frame 4, but"):
        train(run, data, tmp_path / "out", cache_dir=cache, progress=False)
    train(small_run(), data, tmp_path / "other", cache_dir=cache, progress=False)


def test_what_a_device_holds_trains_as_what_is_read_from_disk(folders, cache):
    run = small_run(weights=(0.5, 0.5), workers=1)
    encoder, corpora = build_encoder(run.encoder), open_data(run, folders)
    run = resolve(run, encoder, corpora)
    material = gather(run, encoder, corpora, cache, progress=False)
    on_disk, cpu = replace(run, workers=0), torch.device("cpu")
    assert held(material, cpu, 1e-6) is material  # too small a device
    kept = held(material, cpu, 1.0)
    assert all(isinstance(episode, HeldEpisode) for episode in kept.train)
    assert kept.splits[0].held_out is material.splits[0].held_out
    ours, theirs = (iter(Batches(r, run.stages[0], m, cpu)) for r, m in ((run, kept), (on_disk, material)))
    for _ in range(4):
        for one, other in zip(next(ours), next(theirs), strict=True):
            assert torch.equal(one.e, other.e)


def test_episodes_too_short_for_a_clip_are_told_before_anything_is_encoded(tmp_path, caplog):
    for name, frames in (("long", 40), ("short", 5), ("shorter", 3)):
        write_video(tmp_path / f"{name}.mp4", torch.zeros(frames, 3, 16, 16, dtype=torch.uint8), 10)
    run = small_run(clips=ClipSettings(frames=4, stride=0.2, held_out=0.0))
    resolve(run, build_encoder(run.encoder), open_data(run, [tmp_path]))
    assert "2 of the 3 training episodes have no clip; the first, short.mp4, lasts 0.4 s" in caplog.text
