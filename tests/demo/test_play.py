import pytest
import torch

from dila.data import open_corpus, probe_video
from dila.demo import play
from dila.demo.play import begin, export, film, move, reset, undo
from dila.errors import DilaError


@pytest.fixture(scope="module")
def way(box, clips):
    """Three moves under a clip's own first actions, and those actions."""
    z = box.infer(clips[0])[:3]
    made = begin(box, clips[0][:1])
    for action in z:
        made = move(box, made, action)
    return made, z


def test_played_under_a_clips_own_actions_it_is_the_rollout(box, clips, way):
    made, z = way
    drawn = box.draw(box.rollout(clips[0][:1], z=z))
    assert (film(made)[1:].int() - drawn.int()).abs().max() <= 1


def test_undo_and_reset_go_back_and_the_way_can_branch(box, way):
    made, z = way
    assert undo(box, undo(box, undo(box, undo(box, made)))).actions == reset(box, made).actions == ()
    assert reset(box, made).now.equal(made.pictures[0])
    again = move(box, undo(box, made), z[2])
    assert again.now.equal(made.now)
    assert not move(box, undo(box, made), -3 * z[2] + 1).now.equal(made.now)
    assert len(made.actions) == 3  # what was played before is untouched


def test_a_long_way_holds_two_states_and_no_more(box, way):
    made, z = way
    for _ in range(4):
        made = move(box, made, z[0])
    assert held(made) <= 2 * held(made.state) + held(made.pictures) + held(made.actions)
    assert held(undo(box, made)) < held(made)


def held(value):
    """Bytes of all tensors in a value."""
    if isinstance(value, torch.Tensor):
        return value.untyped_storage().nbytes()
    return 0 if value is None else sum(map(held, value))


def test_a_film_has_every_picture(box, way, tmp_path):
    made, _ = way
    path = export(made, tmp_path / "film.mp4", 0.67)
    episode = open_corpus(path).episodes[0]
    assert probe_video(path).times == pytest.approx([0, 0.67, 1.34, 2.01], rel=1e-3)
    assert (episode.read([3])[0].float() - made.now.float()).abs().mean() < 4
    with pytest.raises(DilaError, match="nothing to export yet"):
        export(reset(box, made), tmp_path / "film.mp4", 0.2)


def test_there_is_an_end_to_it(box, way, monkeypatch):
    made, z = way
    monkeypatch.setattr(play, "LONGEST", 3)
    with pytest.raises(DilaError, match="at most 3 imagined frames"):
        move(box, made, z[0])


def test_it_begins_from_a_picture_of_any_shape(box):
    made = begin(box, torch.zeros(1, 3, 90, 160, dtype=torch.uint8))
    assert film(move(box, made, torch.zeros(32))).shape == (2, 3, 72, 128)
