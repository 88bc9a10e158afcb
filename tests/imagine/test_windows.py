import numpy as np
import pytest
import torch

from dila.data import Clips
from dila.errors import DilaError
from dila.imagine.windows import CHUNK, encode, infer_long, infer_windows, sample, windows


def numbered(length):
    return torch.arange(length).float().view(1, length, 1, 1, 1)


@pytest.mark.parametrize("frames", [2, 3, 8, 9])
@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 25, 64])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_every_transition_is_given_once_with_half_a_window_of_past(frames, length, chunk):
    given, first = [], True
    for window in windows(numbered(length).split(chunk, dim=1), frames):
        start = int(window.e[0, 0])
        size = window.e.shape[1]
        assert window.e.flatten().tolist() == list(range(start, start + size))
        assert size == min(frames, length)
        kept = range(start + size - 1 - window.keep, start + size - 1)
        given += kept
        assert first or kept.start - start >= frames - 1 - frames // 2
        first = False
    assert given == list(range(length - 1))


def test_one_frame_has_no_window():
    assert list(windows([numbered(1)], 4)) == []
    assert list(windows([], 4)) == []


def test_actions_of_a_short_clip_are_the_models_own(model):
    e = torch.randn(2, 7, 4, 4, 12)
    torch.testing.assert_close(infer_long(model, e, 8), model.infer(e))


def test_actions_of_a_long_clip_are_those_of_its_windows(model):
    e = torch.randn(1, 20, 4, 4, 12)
    z = infer_long(model, e.split(3, dim=1), 8)
    assert z.shape == (1, 19, 6)
    torch.testing.assert_close(z[:, :7], model.infer(e[:, :8]))
    torch.testing.assert_close(z[:, 7:11], model.infer(e[:, 4:12])[:, -4:])
    torch.testing.assert_close(z[:, -4:], model.infer(e[:, 12:])[:, -4:])


def test_windows_of_many_clips_share_a_batch_and_stay_apart(model):
    clips = {name: torch.randn(1, length, 4, 4, 12) for name, length in (("a", 20), ("b", 5), ("c", 9))}
    keyed = ((name, window) for name, e in clips.items() for window in windows([e], 8))
    found: dict[str, list[torch.Tensor]] = {}
    for name, z in infer_windows(model, keyed, batch=3):
        found.setdefault(name, []).append(z)
    for name, e in clips.items():
        torch.testing.assert_close(torch.cat(found[name], 1), infer_long(model, e, 8), rtol=1e-4, atol=1e-5)


def test_a_single_frame_is_refused(model):
    with pytest.raises(DilaError, match="fewer than two frames"):
        infer_long(model, torch.randn(1, 1, 4, 4, 12), 8)


def at(times):
    return np.asarray(times, dtype=np.float64)


def test_samples_are_nearest_to_the_stride(fake_episode):
    episode = fake_episode(torch.empty(0), np.arange(10) / 30)
    (run,) = sample(episode, 0.1)
    assert run.tolist() == [0, 3, 6, 9]
    (every,) = sample(episode, 1 / 30)
    assert every.tolist() == list(range(10))


def test_a_gap_ends_a_run_and_a_lone_frame_is_one(fake_episode):
    runs = sample(fake_episode(torch.empty(0), at([0, 0.1, 0.2, 0.8, 0.9])), 0.1)
    assert [run.tolist() for run in runs] == [[0, 1, 2], [3, 4]]
    (alone,) = sample(fake_episode(torch.empty(0), at([0])), 0.1)
    assert alone.tolist() == [0]


def test_no_transition_is_further_from_a_stride_than_in_training(fake_episode):
    every = np.array([0.2, 0.05, 0.1, 0.2, 0.4, 0.2, 0.2, 0.4, 0.05, 0.2, 0.1, 0.2])
    episode = fake_episode(torch.empty(0), np.concatenate([[0], np.tile(every, 4).cumsum()]))
    clips = Clips([episode], frames=2, stride=0.2)
    trained = np.concatenate([np.diff(episode.times[clips.index_of(i)[1]]) for i in range(len(clips))])
    labelled = np.concatenate([np.diff(episode.times[run]) for run in sample(episode, 0.2)])
    assert len(labelled) > 10
    assert max(np.abs(trained - 0.2).max(), np.abs(labelled - 0.2).max()) <= 0.1 + 1e-6  # half a stride


@pytest.mark.parametrize("frames_in_a_stride", [1, 1.1, 1.3, 1.5, 2, 2.5, 6.01])
@pytest.mark.parametrize("digits", [3, 12])
def test_an_even_frame_rate_is_one_run_whatever_the_stride(frames_in_a_stride, digits, fake_episode):
    episode = fake_episode(torch.empty(0), (np.arange(200) / 25).round(digits))
    assert len(sample(episode, frames_in_a_stride / 25)) == 1


@pytest.mark.parametrize("frames_in_a_stride", [1, 1.1, 1.3, 1.5, 2, 2.5, 6, 7.5])
@pytest.mark.parametrize("digits", [3, 12])
def test_runs_through_every_frame_leave_none_out(frames_in_a_stride, digits, fake_episode):
    episode = fake_episode(torch.empty(0), (np.arange(200) / 30).round(digits))
    runs = sample(episode, frames_in_a_stride / 30, every_frame=True)
    assert set(np.concatenate(runs)) == set(range(200))
    assert len(runs) <= 2 * np.ceil(frames_in_a_stride)
    if frames_in_a_stride in (1, 2, 6):
        assert len(runs) == frames_in_a_stride
    begun = set(np.concatenate([run[:-1] for run in runs]))
    assert begun >= set(range(200 - int(np.ceil(frames_in_a_stride)) - 1))


def test_runs_through_every_frame_bridge_no_gap(fake_episode):
    runs = sample(fake_episode(torch.empty(0), np.r_[np.arange(7), np.arange(20, 26)] / 10), 0.2, every_frame=True)
    assert set(np.concatenate(runs)) == set(range(13))
    assert all((run < 7).all() or (run >= 7).all() for run in runs)


def test_no_transition_is_cut_short_at_a_gap(fake_episode):
    """10 frames a second and a jump of 2 s after frame 14, off the grid of the first frame."""
    episode = fake_episode(torch.empty(0), np.arange(30) / 10 + 2 * (np.arange(30) > 14))
    assert [run.tolist() for run in sample(episode, 0.2)] == [list(range(0, 15, 2)), list(range(15, 30, 2))]
    clips = Clips([episode], frames=2, stride=0.2)
    trained = [clips.index_of(i)[1] for i in range(len(clips))]
    assert len(trained) == 26
    for run in [*trained, *sample(episode, 0.2), *sample(episode, 0.2, every_frame=True)]:
        np.testing.assert_allclose(np.diff(episode.times[run]), 0.2)
    begun = [frame for run in sample(episode, 0.2, every_frame=True) for frame in run[:-1]]
    assert sorted(begun) == sorted(run[0] for run in trained)


def test_a_frame_that_is_missing_leaves_no_half_stride(fake_episode):
    episode = fake_episode(torch.empty(0), np.delete(np.arange(30), 14) / 10)
    clips = Clips([episode], frames=2, stride=0.2)
    trained = [clips.index_of(i)[1] for i in range(len(clips))]
    for run in [*trained, *sample(episode, 0.2), *sample(episode, 0.2, every_frame=True)]:
        assert (np.diff(episode.times[run]) > 0.15).all()
    (run,) = sample(fake_episode(torch.empty(0), np.delete(np.arange(90), 42) / 30), 0.2)  # 5 frames of 6 go on
    assert sorted(np.diff(run)) == [5, *[6] * 13]


def test_a_frame_is_never_taken_twice(fake_episode):
    runs = sample(fake_episode(torch.empty(0), at([0, 0.1, 0.25, 0.35, 0.45])), 0.1)
    index = np.concatenate(runs)
    assert (np.diff(index) > 0).all()


def test_too_few_frames_a_second_are_refused(fake_episode):
    with pytest.raises(DilaError, match=r"fake.mp4 has a frame every 0.2 s, .* stride of 0.1 s"):
        sample(fake_episode(torch.empty(0), np.arange(9) / 5), 0.1)
    with pytest.raises(DilaError, match="no frames"):
        sample(fake_episode(torch.empty(0), at([])), 0.1)


def test_encoding_reads_the_chosen_frames_in_bounded_pieces(encoder, fake_episode, frames_of):
    frames = frames_of(CHUNK + 10)
    episode = fake_episode(frames, np.arange(len(frames)) / 10)
    index = np.arange(1, len(frames))
    chunks = list(encode(encoder, episode, index))
    assert [chunk.shape[1] for chunk in chunks] == [CHUNK, 9]
    torch.testing.assert_close(torch.cat(chunks, 1), encoder.encode(frames[None, 1:]))
