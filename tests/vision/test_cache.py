import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dila.vision.cache as cache_module
from dila.errors import DilaError
from dila.vision import FeatureCache, FeatureStatistics, fit_statistics_from
from dila.vision.cache import some_frames
from dila.vision.encoder import FrozenEncoder, Resize
from dila.vision.shards import open_shard, stored
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
        self.network = torch.nn.Identity()
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


def test_nothing_is_encoded_twice(tmp_path):
    encoder = Blocks()
    first = FeatureCache(encoder, tmp_path, progress=False).episodes(recordings(3))
    encoder.seen.clear()
    again = FeatureCache(encoder, tmp_path, progress=False).episodes(recordings(4))
    assert frames_encoded(encoder) == 8
    assert first[0].fingerprint() == again[0].fingerprint()


@pytest.mark.usefixtures("as_installed")
def test_an_encoder_of_ones_own_is_told_what_it_lacks(tmp_path):
    class Mine:
        grid, feature_dim = (1, 1), 1

    with pytest.raises(DilaError, match="features of a Mine cannot be cached; give an encoder that is a FrozenEncoder"):
        FeatureCache(Mine(), tmp_path)


def test_a_stale_cache_is_never_read(tmp_path):
    FeatureCache(Blocks(), tmp_path, progress=False).episodes([Recording("a")])
    resampled = Recording("a")
    resampled.times = resampled.times * 2
    for changed in (Recording("a", seed=1), Recording("a", length=9), resampled):
        assert FeatureCache(Blocks(), tmp_path, progress=False).missing([changed]) == [changed]
    assert len(FeatureCache(Blocks(scale=2.0), tmp_path, progress=False).missing([Recording("a")])) == 1


def test_episodes_of_two_corpora_may_have_one_id(tmp_path):
    encoder, both = Blocks(), [Recording("a", seed=0), Recording("a", length=7, seed=1)]
    for _ in range(2):  # encoded, and found again
        cached = FeatureCache(encoder, tmp_path, progress=False).episodes(both)
        assert [len(episode.times) for episode in cached] == [10, 7]
        for episode, recording in zip(cached, both, strict=True):
            expected = encoder.encode(recording.read([0, 6])[None])[0].to(torch.bfloat16).float()
            assert torch.equal(episode.read([0, 6]), expected)


MANY_SHARDS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import torch
from dila.vision.shards import open_shard, stored
from pathlib import Path
index = stored(Path(sys.argv[1]))
for _ in range(2):
    for key, (path, rows) in index.items():
        assert open_shard(str(path)).rows(key, torch.arange(rows).numpy()).shape == (rows, 2)
print(len(index), flush=True)
"""


def test_a_cache_has_more_shards_than_a_process_may_have_files_open(tmp_path):
    for n in range(100):
        save_file({str(n): torch.full((3, 2), n, dtype=torch.bfloat16)}, tmp_path / f"shard-{n}.safetensors")
    ran = subprocess.run([sys.executable, "-c", MANY_SHARDS, tmp_path], capture_output=True, text=True)
    assert ran.stdout == "100\n", ran.stderr


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
    assert len(left) == 5  # four shards and the config
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
    with pytest.raises(DilaError, match=r"needs 0\.00 GB for 10 frames, but"):
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
    total = sum(len(episode.times) for episode in cached)
    parts = [cached[place].read(wanted) for place, wanted in some_frames(cached, total // 9)]
    everything = torch.cat([episode.read(range(len(episode.times))) for episode in cached])
    assert torch.equal(torch.cat(parts), everything[::9])


def test_an_encoder_with_statistics_still_stores_raw(tmp_path):
    statistics = FeatureStatistics(torch.full((3,), 5.0), torch.full((3,), 4.0))
    normalising = Blocks().with_statistics(statistics)
    (e,) = FeatureCache(normalising, tmp_path, progress=False).episodes([Recording("a")])
    (raw,) = FeatureCache(Blocks(), tmp_path, progress=False).episodes([Recording("a")])
    assert torch.allclose(e.read([3]), statistics.normalise(raw.read([3])))


def test_a_pickled_episode_reads_in_another_process(tmp_path):
    (episode,) = FeatureCache(Blocks(), tmp_path, progress=False).episodes([Recording("a")])
    episode.read([0])
    text = pickle.dumps(episode)
    assert len(text) < 10_000
    code = "import pickle, sys; print(float(pickle.loads(sys.stdin.buffer.read()).read([7]).sum()))"
    out = subprocess.run([sys.executable, "-c", code], input=text, capture_output=True, check=True)
    assert float(out.stdout) == pytest.approx(float(episode.read([7]).sum()), rel=1e-6)


def test_damage_is_told_and_mended(tmp_path, caplog):
    encoder = Blocks()
    cache = FeatureCache(encoder, tmp_path, progress=False)
    (episode,) = cache.episodes([Recording("a")])
    assert json.loads((cache.folder / "encoder.json").read_text()) == {"name": "blocks", "scale": 1.0}
    whole = episode.shards[0].read_bytes()
    for torn in (b"torn", whole[:-10], b""):
        episode.shards[0].unlink()
        episode.shards[0].write_bytes(torn)
        open_shard.cache_clear()
        with pytest.raises(DilaError, match=r"cannot read .*shard-"):
            episode.read([0])
        encoder.seen.clear()
        (again,) = cache.episodes([Recording("a")])
        assert frames_encoded(encoder) == 10
        assert "cannot read" in caplog.text
        open_shard.cache_clear()
        assert torch.equal(again.read([3]), cache.episodes([Recording("a")])[0].read([3]))
    with pytest.raises(DilaError, match="a has frames 0 to 9, but 4 to 10 were requested"):
        again.read([4, 10])


@pytest.mark.parametrize("place", [
    {"shape": [6, 4, 4, 2], "data_offsets": [0, 300]}, {"shape": [], "data_offsets": [0, 2]},
    {"shape": [-1, 2], "data_offsets": [4, 0]}, {"shape": [2], "data_offsets": ["0", "4"]}, {"shape": 2},
    {"shape": [2.0], "data_offsets": [0, 4]}, {"shape": [2], "data_offsets": [1, 5]},
    {"shape": [400], "data_offsets": [0, 800]},
])  # fmt: skip
def test_a_shard_whose_header_does_not_fit_it_is_refused(tmp_path, place):
    header = json.dumps({"key": {"dtype": "BF16", **place}}).encode()
    header += b" " * (-len(header) % 8)
    path = tmp_path / "shard-0.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(400))
    with pytest.raises(DilaError, match=r"cannot read .*shard-0\.safetensors: .*; delete it and run again"):
        open_shard(str(path))
    assert stored(tmp_path) == {}


def test_a_lost_shard_is_encoded_again(tmp_path):
    encoder = Blocks()
    (episode,) = FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    episode.shards[0].unlink()
    (again,) = FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    assert again.shards[0].is_file()


def test_long_episodes_lie_in_pieces_and_go_on_at_the_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "PIECE", 4)
    monkeypatch.setattr(cache_module, "SHARD_BYTES", 1)
    encoder, recording = Blocks(), Recording("a", length=11)

    class Breaks(Recording):
        def read(self, frames):
            if max(frames) >= 8:
                raise OSError("gone")
            return super().read(frames)

    cache = FeatureCache(encoder, tmp_path, progress=False)
    assert cache.episodes([Breaks("a", length=11)]) == []
    assert frames_encoded(encoder) == 8
    assert [e.id for e in cache.missing([recording])] == ["a"]
    (episode,) = cache.episodes([recording])
    assert frames_encoded(encoder) == 11
    assert len(set(episode.shards)) == 3
    expected = encoder.encode(recording.pixels()[None])[0].bfloat16().float()
    for wanted in ([10, 0, 5, 5, 9], [7, 6], list(range(11)), []):
        assert torch.equal(episode.read(wanted), expected[wanted])
    assert cache.missing([recording]) == []


def test_a_clip_touches_only_its_pages(tmp_path):
    class Wide(Blocks):
        grid, feature_dim = (32, 32), 64

        def features(self, frames):
            return frames.mean((1, 2, 3))[:, None, None, None].expand(-1, 32, 32, 64)

    (episode,) = FeatureCache(Wide(), tmp_path, progress=False).episodes([Recording("a", length=400)])
    shard = episode.shards[0]
    assert shard.stat().st_size > 50e6
    open_shard.cache_clear()

    def held():
        """Megabytes of the file in this process's memory."""
        text = Path("/proc/self/smaps").read_text()
        blocks = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text)
        return sum(int(re.search(r"Rss:\s+(\d+)", b)[1]) for b in blocks if str(shard) in b.split("\n")[0]) / 1024

    if not Path("/proc/self/smaps").exists():
        pytest.skip("no /proc here")
    episode.read([200, 202, 204])
    assert 0.3 < held() < 4  # three frames of 128 KB; the system maps a little around them


def test_other_weights_under_the_same_config_are_encoded_anew(tmp_path):
    class Trained(Blocks):
        version = "one"

        def weights(self):
            return self.version

    FeatureCache(Trained(), tmp_path, progress=False).episodes([Recording("a")])
    encoder = Trained()
    FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    assert encoder.seen == []
    encoder.version = "two"
    FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    assert frames_encoded(encoder) == 10


def test_an_encoder_that_says_nothing_of_its_weights_is_known_by_them(tmp_path):
    encoders = [Blocks() for _ in range(3)]
    for encoder, start in zip(encoders, (0.0, 0.0, 1.0), strict=True):
        encoder.network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(encoder.network.weight, start)
        torch.nn.init.zeros_(encoder.network.bias)
        FeatureCache(encoder, tmp_path, progress=False).episodes([Recording("a")])
    assert [frames_encoded(encoder) for encoder in encoders] == [10, 0, 10]


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    cache = FeatureCache(Blocks(), tmp_path, progress=False)
    cache.folder.mkdir(parents=True)
    old, new = (cache.folder / f"shard-{name}.safetensors.1.partial" for name in ("old", "new"))
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache.episodes([Recording("a")])
    assert (old.exists(), new.exists()) == (False, True)


def test_two_writers_do_not_undo_each_other(tmp_path):
    one, other = (FeatureCache(Blocks(), tmp_path, progress=False) for _ in range(2))
    one.episodes(recordings(2))
    other.episodes(recordings(4)[2:])
    encoder = Blocks()
    assert len(FeatureCache(encoder, tmp_path, progress=False).episodes(recordings(4))) == 4
    assert encoder.seen == []


def test_the_size_is_told_before_encoding(tmp_path, capsys):
    FeatureCache(Blocks(), tmp_path).episodes(recordings(2))
    told = capsys.readouterr()
    assert "caching features of 2 episodes, 11 frames: 0.00 GB" in told.out + told.err
    assert "11/11" in told.err
