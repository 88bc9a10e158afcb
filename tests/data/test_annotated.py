import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dila.data import annotated
from dila.data.corpus import open_corpus, split_episodes
from dila.data.primitives import KINDS
from dila.data.video import write_video
from dila.errors import DilaError


def pictures(folder, shades, count, suffix="png", first=0):
    folder.mkdir(parents=True, exist_ok=True)
    for f, picture in enumerate(shades(count, first).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture).save(folder / f"{f}.{suffix}", quality=95)


def loopnav(path, shades, count):
    """As the data set's own recorder writes it: MJPG in avi at 20 frames a second, a list of one record a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=20, options={"qmin": "1", "qmax": "2"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuvj420p"
        for picture in shades(count).permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    records = [
        {
            "x": f * 0.5, "y": 64.0, "z": -f * 0.25, "yaw": 0.1 * f, "pitch": 0.0, "goal": {"x": 3, "z": 4},
            "action": {"forward": f % 2 == 0, "back": False, "jump": False, "camera": [0.01 * f, 0.0]},
            "frame_count": f + 20, "extra_info": {"seed": 42, "nvtype": "ABA"},
        }
        for f in range(count)
    ]  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(records))


def test_loopnav_is_read_and_aligned(tmp_path, shades, check_alignment):
    for kind in ("ABA/5/plains_village_1", "ABCA/15/desert_village_2"):
        loopnav(tmp_path / kind / "05-01_12-00-00.avi", shades, 9)
    corpus = open_corpus(tmp_path)
    assert [e.id for e in corpus.episodes] == [
        "ABA/5/plains_village_1/05-01_12-00-00.avi", "ABCA/15/desert_village_2/05-01_12-00-00.avi",
    ]  # fmt: skip
    assert corpus.names["action"] == ("forward", "back", "jump", "camera_0", "camera_1")
    assert corpus.names["state"] == ("x", "y", "z", "yaw", "pitch")
    np.testing.assert_allclose(corpus.episodes[0].times, np.arange(9) / 20, atol=1e-6)
    count = check_alignment(
        corpus.episodes,
        lambda _, f: [f % 2 == 0, 0, 0, 0.01 * f, 0],
        lambda _, f: [f * 0.5, 64, -f * 0.25, 0.1 * f, 0],
    )
    assert count == 2 * 6


def test_loopnav_as_frames_or_with_meta_json(tmp_path, shades, check_alignment):
    actions = [[float(f), 1.0] for f in range(7)]
    pictures(tmp_path / "frames", shades, 7)
    (tmp_path / "frames" / "meta.json").write_text(json.dumps({"fps": 20, "actions": actions}))
    write_video(tmp_path / "film" / "video.mp4", shades(7), 20)
    (tmp_path / "film" / "meta.json").write_text(json.dumps({"actions": actions}))
    corpus = open_corpus(tmp_path)
    assert [e.id for e in corpus.episodes] == ["film/video.mp4", "frames"]
    np.testing.assert_allclose(corpus.episodes[1].times, np.arange(7) / 20)
    assert check_alignment(corpus.episodes, lambda _, f: [f, 1]) == 8


def test_what_other_systems_leave_beside_a_video_does_not_take_its_actions(tmp_path, shades):
    write_video(tmp_path / "a.mp4", shades(4), 10)
    (tmp_path / "meta.json").write_text(json.dumps({"actions": [[1.0]] * 4}))
    (tmp_path / "._a.mp4").write_bytes(b"of macOS")
    assert set(open_corpus(tmp_path).episodes[0].columns) == {"action"}
    write_video(tmp_path / "b.mp4", shades(4), 10)
    assert [dict(e.columns) for e in open_corpus(tmp_path).episodes] == [{}, {}]


def test_a_folder_is_not_walked_for_every_video_in_it(tmp_path, monkeypatch):
    for number in range(200):
        (tmp_path / f"{number}.mp4").touch()
    (tmp_path / "meta.json").write_text("{}")
    asked = []
    monkeypatch.setattr(annotated, "Path", lambda name: asked.append(name) or Path(name))
    assert not any(annotated.claims(path) for path in tmp_path.glob("*.mp4"))
    assert len(asked) == 200  # the first other each


def rt1(folder, shades, count, **more):
    """RT-1 as frames: named parts of each action, and a state."""
    pictures(folder, shades, count, "jpg")
    actions = [
        {"world_vector": [0.1 * f, 0, 0], "rotation_delta": [0, 0, 0.2 * f], "gripper_closedness_action": [1]}
        for f in range(count - 1)
    ]
    document = {
        "fps": 3,
        "actions": actions,
        "states": [[f, 2.0] for f in range(count)],
        "names": {"state": ["a", "b"]},
    }
    (folder / "actions.json").write_text(json.dumps({**document, **more}))


def test_rt1_frames_are_read_and_aligned(tmp_path, shades, check_alignment):
    rt1(tmp_path / "episode_0", shades, 6, split="train")
    rt1(tmp_path / "episode_1", shades, 5, split="test")
    corpus = open_corpus(tmp_path)
    assert corpus.names["action"] == (
        "world_vector_0", "world_vector_1", "world_vector_2", "rotation_delta_0", "rotation_delta_1",
        "rotation_delta_2", "gripper_closedness_action",
    )  # fmt: skip
    assert corpus.names["state"] == ("a", "b")
    assert [[e.id for e in side] for side in split_episodes(corpus)] == [["episode_0"], ["episode_1"]]
    np.testing.assert_allclose(corpus.episodes[0].times, np.arange(6) / 3)
    assert np.isnan(corpus.episodes[0].columns["action"][-1]).all()
    count = check_alignment(corpus.episodes, lambda _, f: [0.1 * f, 0, 0, 0, 0, 0.2 * f, 1], lambda _, f: [f, 2])
    assert count == 3 + 2


def test_one_such_folder_alone_keeps_its_name(tmp_path, shades):
    rt1(tmp_path / "episode_0", shades, 4, split="train")
    corpus = open_corpus(tmp_path / "episode_0")
    assert [e.id for e in corpus.episodes] == ["episode_0"]
    assert corpus.splits == {"train": ("episode_0",)}
    assert corpus.root == tmp_path


def test_primitive_transforms_are_read_and_aligned(tmp_path, shades, check_alignment):
    def state(f):
        return [0.2 + 0.01 * f, 0.5, 0.1 * f, -0.2 * f]

    for kind, held_out in (("translation", False), ("translation+scaling+rotation", True)):
        folder = tmp_path / "omni" / "mug" / kind
        pictures(folder, shades, 8)
        parameters = {"object": "mug", "texture": "wood", "transform": kind, "held_out": held_out, "fps": 10,
                      "states": [state(f) for f in range(8)]}  # fmt: skip
        (folder / "parameters.json").write_text(json.dumps(parameters))
    corpus = open_corpus(tmp_path / "omni")
    assert corpus.names["action"] == ("dx", "dy", "dlog_scale", "dangle")
    assert corpus.splits == {"train": ("mug/translation",), "held_out": ("mug/translation+scaling+rotation",)}
    assert [e.columns["kind"][0, 0] for e in corpus.episodes] == [0, len(KINDS) - 1]
    assert check_alignment(corpus.episodes, lambda _, f: [0.01, 0, 0.1, -0.2], lambda _, f: state(f)) == 10


def test_a_document_of_something_else_hides_nothing(tmp_path, shades):
    write_video(tmp_path / "a.mp4", shades(4), 10)
    (tmp_path / "a.json").write_text('{"title": "downloaded", "tags": [1]}')
    write_video(tmp_path / "b.mp4", shades(4), 10)
    (tmp_path / "b.json").write_text("{ no json")
    corpus = open_corpus(tmp_path)
    assert [e.id for e in corpus.episodes] == ["a.mp4", "b.mp4"]
    assert dict(corpus.episodes[0].columns) == {}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"actions": [[1.0]] * 3}, "has 3 actions for 6 frames"),
        ({"actions": [[1.0]] * 6, "states": [[1.0]] * 5}, "has 5 rows of 'state' for 6 frames"),
        ({"actions": [[1.0], [1.0, 2.0]] * 3}, "unequal length in 'action'"),
        ({"actions": [{"a": 1}, {"b": 1}] * 3}, r"one of \['a'\] is missing"),
        ({"actions": ["left"] * 6}, "no rows of numbers in 'action'"),
        ({"actions": [[1.0]] * 6, "fps": "fast"}, "has fps = 'fast'"),
    ],
)
def test_a_document_that_does_not_fit_is_named(tmp_path, shades, document, words):
    pictures(tmp_path / "a", shades, 6)
    (tmp_path / "a" / "actions.json").write_text(json.dumps(document))
    with pytest.raises(DilaError, match=r"actions\.json.*" + words):
        open_corpus(tmp_path / "a")


def test_parameters_have_to_be_complete(tmp_path, shades):
    pictures(tmp_path / "a", shades, 3)
    for document, words in (
        ({"states": [[0.0] * 3] * 3, "transform": "rotation"}, "must have 'states'"),
        ({"states": [[0.0] * 4] * 3, "transform": "melting"}, "transform = 'melting'"),
    ):
        (tmp_path / "a" / "parameters.json").write_text(json.dumps(document))
        with pytest.raises(DilaError, match=r"parameters\.json.*" + words):
            open_corpus(tmp_path / "a")
