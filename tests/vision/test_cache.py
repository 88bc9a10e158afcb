import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import dila.vision.cache as cache_module
from dila.errors import DilaError
from dila.vision import FeatureCache, FeatureStatistics, fit_statistics_from
from dila.vision.encoder import FrozenEncoder, Resize
from dila.vision.statistics import accumulate


class Blocks(FrozenEncoder):
    """Mean colour of each of four cells, and the frames that went through."""

    name = "blocks"
    grid = (2, 2)
    feature_dim = 3

    def __init__(self, scale: float = 1.0):
        self.scale = scale
        self.statistics = None
        self.resize = Resize((4, 4), "bilinear", antialias=True)
        self.network = torch.nn.Linear(1, 1)
        self.seen: list[int] = []

    def features(self, frames):
        self.seen.append(len(frames))
        return self.scale * torch.nn.functional.avg_pool2d(frames, 2).permute(0, 2, 3, 1)

    def config(self):
        return {"name": self.name, "scale": self.scale}


@dataclass
class Recording:
    id: str
    length: int = 10
    seed: int = 0
    times: np.ndarray = field(init=False)
    columns: dict = field(init=False)

    def __post_init__(self):
        self.times = np.arange(self.length) / 10
        self.columns = {"action": np.ones((self.length, 2))}

    def pixels(self):
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randint(0, 256, (self.length, 3, 4, 4), generator=generator, dtype=torch.uint8)

    def read(self, frames):
        return self.pixels()[list(frames)]

    def fingerprint(self):
        return f"seed{self.seed}"


class Damaged(Recording):
    def read(self, frames):
        raise OSError("moov atom not found")


def recordings(count: int) -> list[Recording]:
    return [Recording(f"e{i}", length=5 + i, seed=i) for i in range(count)]


def frames_encoded(encoder: Blocks) -> int:
    return sum(encoder.seen)


def test_cached_features_are_the_encoders(tmp_path):
    encoder = Blocks()
    episodes = FeatureCache(encoder, tmp_path, progress=False).episodes(recordings(3))
    for cached, recording in zip(episodes, recordings(3), strict=True):
        expected = encoder.encode(recording.read([4, 0, 0])[None])[0].to(torch.bfloat16).float()
        e = cached.read([4, 0, 0])
        assert e.dtype == torch.float32
        assert torch.equal(e, expected)
        assert cached.id == recording.id
        assert np.array_equal(cached.times, recording.times)
        assert np.array_equal(cached.columns["action"], recording.columns["action"])


def test_nothing_is_encoded_twice_and_a_config_is_enough_to_read(tmp_path):
    encoder = Blocks()
    first = FeatureCache(encoder, tmp_path, progress=False).episodes(recordings(3))
    encoder.seen.clear()
    again = FeatureCache(encoder, tmp_path, progress=False).episodes(recordings(4))
    assert frames_encoded(encoder) == 8
    by_config = FeatureCache({"name": "blocks", "scale": 1.0}, tmp_path, progress=False).episodes(recordings(4))
    for a, b in zip(again, by_config, strict=True):
        assert torch.equal(a.read([1]), b.read([1]))
    assert first[0].fingerprint() == again[0].fingerprint()


def test_a_stale_cache_is_never_read(tmp_path):
    config = {"name": "blocks", "scale": 1.0}
    FeatureCache(Blocks(), tmp_path, progress=False).episodes([Recording("a")])
    resampled = Recording("a")
    resampled.times = resampled.times * 2
    for changed in ([Recording("a", seed=1)], [Recording("a", length=9)], [resampled]):
        with pytest.raises(DilaError, match="1 episodes, the first a, are not in the feature cache"):
            FeatureCache(config, tmp_path, progress=False).episodes(changed)
    with pytest.raises(DilaError, match="are not in"):
        FeatureCache({"name": "blocks", "scale": 2.0}, tmp_path, progress=False).episodes([Recording("a")])


def test_an_unreadable_episode_is_skipped_with_its_reason(tmp_path, caplog):
    cache = FeatureCache(Blocks(), tmp_path, progress=False)
    episodes = cache.episodes([Recording("a"), Damaged("b"), Recording("c", seed=2)])
    assert [episode.id for episode in episodes] == ["a", "c"]
    assert cache.skipped == {"b": "OSError: moov atom not found"}
    assert "moov atom" in caplog.text


def test_an_encoders_own_failure_is_not_hidden(tmp_path):
    encoder = Blocks()
    encoder.features = lambda frames: 1 / 0
    with pytest.raises(ZeroDivisionError):
        FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])


def test_a_kill_costs_no_more_than_the_shard_at_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD_BYTES", 1)  # a shard an episode
    encoder, made = Blocks(), recordings(4)

    class Killed(Exception):
        pass

    def killed_at_the_third(path, x, real=cache_module.save_file, count=[0]):  # noqa: B006
        count[0] += 1
        real(path, x)
        if count[0] == 3:
            raise Killed

    monkeypatch.setattr(cache_module, "save_file", killed_at_the_third)
    with pytest.raises(Killed):
        FeatureCache(encoder, tmp_path, progress=False).episodes(made)
    monkeypatch.undo()
    monkeypatch.setattr(cache_module, "SHARD_BYTES", 1)
    encoder.seen.clear()
    episodes = FeatureCache(encoder, tmp_path, progress=False).episodes(made)
    assert frames_encoded(encoder) == len(made[2].times) + len(made[3].times)
    assert len(episodes) == 4
    left = sorted(path.name for path in (tmp_path).rglob("*") if path.is_file())
    assert len(left) == 5  # four shards and the index
    assert not [name for name in left if name.endswith(".partial")]


def test_long_episodes_go_through_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "READ_BATCH", 4)
    asked: list[int] = []

    class Watched(Recording):
        def read(self, frames):
            asked.append(len(frames))
            return super().read(frames)

    (episode,) = FeatureCache(Blocks(), tmp_path, progress=False).episodes([Watched("a", length=10)])
    assert asked == [4, 4, 2]
    assert episode.read(range(10)).shape == (10, 2, 2, 3)


def test_a_full_disk_is_told_before_work_starts(tmp_path, monkeypatch):
    usage = cache_module.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda path: usage)
    encoder = Blocks()
    with pytest.raises(DilaError, match=r"needs 0\.00 GB for 10 frames but"):
        FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    assert encoder.seen == []


def test_statistics_are_fitted_from_the_cache_and_applied_on_reading(tmp_path):
    cached = FeatureCache(Blocks(), tmp_path, progress=False).episodes(recordings(5))
    statistics = fit_statistics_from(cached)
    whole = torch.cat([episode.read(range(len(episode.times))) for episode in cached])
    assert torch.allclose(statistics.mean, accumulate([whole]).mean)
    normalised = torch.cat([e.with_statistics(statistics).read(range(len(e.times))) for e in cached])
    assert torch.allclose(normalised.mean((0, 1, 2)), torch.zeros(3), atol=1e-4)
    # fitting again from normalised episodes reads them raw
    assert torch.equal(fit_statistics_from([e.with_statistics(statistics) for e in cached]).mean, statistics.mean)


def test_few_frames_are_spread_over_all_episodes(tmp_path):
    cached = FeatureCache(Blocks(), tmp_path, progress=False).episodes(recordings(6))
    read: list[tuple[int, int]] = []
    total = sum(len(episode.times) for episode in cached)
    parts = list(cache_module._spread(cached, 9))
    read = [len(part) for part in parts]
    assert sum(read) == -(-total // 9)
    everything = torch.cat([episode.read(range(len(episode.times))) for episode in cached])
    assert torch.equal(torch.cat(parts), everything[::9])


def test_an_encoder_with_statistics_still_stores_raw(tmp_path):
    statistics = FeatureStatistics(torch.full((3,), 5.0), torch.full((3,), 4.0))
    normalising = Blocks().with_statistics(statistics)
    (e,) = FeatureCache(normalising, tmp_path, progress=False).episodes([Recording("a")])
    (raw,) = FeatureCache({"name": "blocks", "scale": 1.0}, tmp_path, progress=False).episodes([Recording("a")])
    assert torch.allclose(e.read([3]), statistics.normalise(raw.read([3])))


def test_a_pickled_episode_reads_in_another_process(tmp_path):
    (episode,) = FeatureCache(Blocks(), tmp_path, progress=False).episodes([Recording("a")])
    episode.read([0])
    text = pickle.dumps(episode)
    assert len(text) < 10_000
    code = "import pickle, sys; print(float(pickle.loads(sys.stdin.buffer.read()).read([7]).sum()))"
    out = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, check=True)
    assert float(out.stdout) == pytest.approx(float(episode.read([7]).sum()), rel=1e-6)


def test_damage_is_told(tmp_path):
    cache = FeatureCache(Blocks(), tmp_path, progress=False)
    (episode,) = cache.episodes([Recording("a")])
    index = json.loads((cache.folder / "index.json").read_text())
    assert index["encoder"] == {"name": "blocks", "scale": 1.0}
    episode.shard.write_bytes(b"torn")
    cache_module._open_shard.cache_clear()
    with pytest.raises(DilaError, match=r"cannot read .*shard-"):
        episode.read([0])
    (cache.folder / "index.json").write_text("{")
    with pytest.raises(DilaError, match=r"index\.json is no index"):
        cache.episodes([Recording("a")])


def test_a_lost_shard_is_encoded_again(tmp_path):
    encoder = Blocks()
    (episode,) = FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    episode.shard.unlink()
    (again,) = FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    assert again.shard.is_file()


def test_the_size_is_told_before_encoding(tmp_path, capsys):
    FeatureCache(Blocks(), tmp_path).episodes(recordings(2))
    told = capsys.readouterr()
    assert "caching features of 2 episodes, 11 frames: 0.00 GB" in told.out + told.err
    assert "11/11" in told.err
