import pytest
import torch

from dila.data import write_video
from dila.demo import clips as rules
from dila.demo.clips import accept, last_start, read_frames, shelve
from dila.errors import DilaError


@pytest.fixture
def video(tmp_path):
    def make(name="mine.mp4", frames=20, size=(64, 64), fps=10):
        write_video(tmp_path / name, torch.randint(0, 255, (frames, 3, *size), dtype=torch.uint8), fps)
        return tmp_path / name

    return make


def test_a_video_within_the_limits_is_taken_and_read_at_the_models_stride(video, box):
    path = accept(video())
    assert read_frames(box, path).shape == (10, 3, 64, 64)
    assert read_frames(box, path, frames=4).shape[0] == 4
    assert read_frames(box, path, start=1.0).shape[0] == 5
    assert read_frames(box, path, start=99.0).shape[0] == 2
    assert last_start(box, path) == 1.6
    assert read_frames(box, path, start=last_start(box, path)).shape[0] == 2


def test_a_gif_is_a_video_within_the_same_limits(video, box):
    assert read_frames(box, accept(video("mine.gif"))).shape == (10, 3, 64, 64)
    with pytest.raises(DilaError, match=r"long\.gif lasts 99 s, but at most 60 s"):
        accept(video("long.gif", frames=100, size=(16, 16), fps=1))


def test_large_pictures_are_kept_small(video, box):
    assert read_frames(box, video(size=(300, 600))).shape[-2:] == (128, 256)


def test_what_is_no_video_is_refused_by_name(tmp_path, video):
    (tmp_path / "passwords.txt").write_text("secret")
    with pytest.raises(DilaError, match=r"passwords\.txt is not a supported video"):
        accept(tmp_path / "passwords.txt")
    (tmp_path / "fake.mp4").write_bytes(b"no video at all" * 99)
    with pytest.raises(DilaError, match=r"^fake\.mp4 cannot be read as a video; upload another$"):
        accept(tmp_path / "fake.mp4")


def test_size_length_and_resolution_have_limits(video, monkeypatch):
    with pytest.raises(DilaError, match="lasts 99 s, but at most 60 s"):
        accept(video(frames=100, size=(16, 16), fps=1))
    monkeypatch.setattr(rules, "SIDE", 60)
    with pytest.raises(DilaError, match="is 64 x 32, but at most 60 pixels"):
        accept(video(size=(32, 64)))
    monkeypatch.setattr(rules, "MEGABYTES", 0.001)
    with pytest.raises(DilaError, match=r"MB, but at most 0\.001"):
        accept(video())


def test_too_short_is_refused(video, box):
    with pytest.raises(DilaError, match="fewer than two frames"):
        read_frames(box, video(frames=1))


def test_only_names_on_the_shelf_open_files(video, tmp_path):
    path = video()
    (tmp_path / "more").mkdir()
    video("more/mine.mp4")
    video("more/mine (3).mp4")
    (tmp_path / "other").mkdir()
    video("other/mine.mp4")
    shelf = shelve([tmp_path])
    assert shelf.names == ["mine", "mine (3)", "mine (2)", "mine (4)"]
    assert shelf.choose("mine", None) == path
    assert shelf.choose("mine (4)", str(path)) == path
    for name in ("/etc/passwd", "../mine", str(path), None):
        with pytest.raises(DilaError, match="there is no clip"):
            shelf.choose(name, None)


def test_a_shelf_without_videos_is_refused(tmp_path):
    with pytest.raises(DilaError, match="no video"):
        shelve([tmp_path])
    with pytest.raises(DilaError, match="does not exist"):
        shelve([tmp_path / "nothing"])
