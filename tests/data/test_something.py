import json

import av
import numpy as np
import pytest
from PIL import Image

from dila.data.corpus import open_corpus, split_episodes
from dila.errors import DilaError

TEMPLATES = {"Pushing something from left to right": "0", "Holding something": "1"}


def webm(path, shades, count, first):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=12, options={"crf": "20", "b": "0"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        for picture in shades(count, first).permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def labels(folder, name="something-something-v2-{}.json"):
    folder.mkdir(parents=True, exist_ok=True)
    record = {"label": "pushing a cup from left to right", "template": "Pushing [something] from left to right"}
    train = [
        {"id": "78687", **record, "placeholders": ["a cup"]},
        {"id": "9", **record, "template": "Holding [something]"},
    ]
    told = {"train": train, "validation": [{"id": "42", **record}, {"id": "43", **record}], "test": [{"id": "7"}]}
    for kind, content in {**told, "labels": TEMPLATES}.items():
        (folder / name.format(kind)).write_text(json.dumps(content))


@pytest.fixture
def ssv2(tmp_path, shades):
    root = tmp_path / "ssv2"
    labels(root)
    for clip, first in {"78687": 0, "9": 10, "42": 20, "7": 30}.items():
        webm(root / "20bn-something-something-v2" / f"{clip}.webm", shades, 6, first)
    return root


def test_clips_labels_and_splits_are_read(ssv2, numbers):
    corpus = open_corpus(ssv2)
    assert [e.id for e in corpus.episodes] == ["9", "78687", "42", "7"]
    assert corpus.splits == {"train": ("9", "78687"), "validation": ("42",), "test": ("7",)}
    for episode, first, label in zip(corpus.episodes, [10, 0, 20, 30], [1, 0, 0, -1], strict=True):
        assert numbers(episode.read([0, 5])) == [first, first + 5]
        assert episode.columns["label"].tolist() == [[label]] * 6
        np.testing.assert_allclose(episode.times, np.arange(6) / 12, atol=2e-3)
    assert [[e.id for e in side] for side in split_episodes(corpus)] == [["9", "78687"], ["42"]]
    (missing,) = corpus.skipped
    assert missing.path.name == "something-something-v2-validation.json"
    assert missing.reason == "1 of its 2 clips are missing, the first is 43"


def test_a_clip_in_two_files_is_one_episode_in_two_parts(ssv2):
    file = ssv2 / "something-something-v2-test.json"
    file.write_text('[{"id": "7"}, {"id": "9"}]')
    corpus = open_corpus(ssv2)
    assert [e.id for e in corpus.episodes] == ["9", "78687", "42", "7"]
    assert corpus.splits["test"] == ("7", "9")


def test_extracted_frames_and_the_newer_names_of_the_label_files(tmp_path, shades, numbers):
    root = tmp_path / "ssv2"
    labels(root / "labels", "{}.json")
    for clip, first in {"78687": 0, "42": 20}.items():
        folder = root / "frames" / clip
        folder.mkdir(parents=True)
        for f, picture in enumerate(shades(5, first).permute(0, 2, 3, 1).numpy()):
            Image.fromarray(picture).save(folder / f"{f + 1:06d}.jpg", quality=95)
    (root / "frames" / "42" / "meta.json").write_text('{"fps": 30}')
    first, second = open_corpus(root).episodes
    assert (first.id, second.id) == ("78687", "42")
    assert numbers(second.read([4, 0])) == [24, 20]
    np.testing.assert_allclose(first.times, np.arange(5) / 12)
    np.testing.assert_allclose(second.times, np.arange(5) / 30)


def test_broken_clips_are_left_out_of_episodes_and_splits(ssv2):
    (ssv2 / "20bn-something-something-v2" / "9.webm").write_bytes(b"")
    corpus = open_corpus(ssv2)
    assert corpus.splits["train"] == ("78687",)
    assert [s.path.name for s in corpus.skipped] == ["9.webm", "something-something-v2-validation.json"]


def test_damaged_label_files_are_named(ssv2):
    file = ssv2 / "something-something-v2-train.json"
    for content in ("[", "{}x", '{"a": 1}', "[1]"):
        file.write_text(content)
        with pytest.raises(DilaError, match=r"something-something-v2-train\.json"):
            open_corpus(ssv2)
    labels(ssv2)
    (ssv2 / "something-something-v2-labels.json").write_text('{"Holding something": "one"}')
    with pytest.raises(DilaError, match="must map templates to numbers"):
        open_corpus(ssv2)
