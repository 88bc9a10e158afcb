import subprocess
import sys

import numpy as np
import pytest
import torch

import dila
from dila.data import read_video, write_video
from dila.errors import DilaError
from dila.imagine.rollout import rollout
from dila.imagine.world import World


@pytest.fixture
def world(model, encoder, decoder):
    return World(model, encoder, decoder, stride=0.1, frames=8)


@pytest.fixture
def video(videos):
    return videos / "take0" / "2.mp4"


def test_a_path_and_its_frames_give_the_same_actions(world, video):
    frames = read_video(video, range(40))
    z = world.infer(video)
    assert z.shape == (39, 6)
    torch.testing.assert_close(z, world.infer(frames), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(world.infer(torch.stack([frames, frames]))[1], z, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(world.infer(str(video)), z)


def test_a_world_moves_with_all_that_it_holds(model, encoder, decoder):
    world = World(model, encoder, decoder, stride=0.1, frames=8)
    assert world.to("meta") is world
    assert world.device.type == "meta"
    assert {p.device.type for part in (encoder, decoder) for p in getattr(part, "parameters", list)()} <= {"meta"}


def test_a_path_is_read_at_the_stride(model, encoder, video):
    z = World(model, encoder, stride=0.2, frames=8).infer(video)
    frames = read_video(video, range(0, 40, 2))
    torch.testing.assert_close(z, World(model, encoder, frames=8).infer(frames), rtol=1e-4, atol=1e-5)


def test_a_folder_of_images_is_a_video(world, tmp_path, frames_of):
    from PIL import Image

    frames = frames_of(12)
    folder = tmp_path / "images"
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    torch.testing.assert_close(world.infer(folder), world.infer(frames))
    torch.testing.assert_close(world.features(folder), world.encoder.encode(frames[None])[0])


def test_rollout_follows_the_given_actions_or_its_own(world, frames_of):
    frames = frames_of(7)
    z = world.infer(frames)
    e = world.encoder.encode(frames[None])
    own = world.rollout(frames)
    torch.testing.assert_close(own, world.rollout(frames[:1], z))
    torch.testing.assert_close(own[None], rollout(world.model, e[:, :1], z[None]))
    torch.testing.assert_close(world.rollout(frames, steps=2), own[:2])
    after = world.rollout(frames, context=3)
    torch.testing.assert_close(after[None], rollout(world.model, e[:, :3], z[None, 2:]))
    both = world.rollout(torch.stack([frames, frames]), z)
    torch.testing.assert_close(both[1], own, rtol=1e-3, atol=1e-4)


def test_rollout_refuses_what_it_cannot_do(world, frames_of):
    frames = frames_of(5)
    for steps in (9, 0, -1):
        with pytest.raises(DilaError, match=f"steps = {steps} must be between 1 and 4"):
            world.rollout(frames, steps=steps)
    for context in (5, 0):
        with pytest.raises(DilaError, match=f"context = {context} must be between 1 and 4, so that a frame is left"):
            world.rollout(frames, context=context)
    with pytest.raises(DilaError, match="context = 6"):
        world.rollout(frames, torch.zeros(3, 6), context=6)
    with pytest.raises(DilaError, match="context = 0 must be at least 1"):
        world.rollout(frames, torch.zeros(3, 6), context=0)
    with pytest.raises(DilaError, match="context = -1 must be at least 1"):
        world.transfer(frames, frames, context=-1)
    for limit in (0, -3):
        with pytest.raises(DilaError, match=f"limit = {limit} must be at least 1"):
            world.features(frames, limit=limit)
    with pytest.raises(DilaError, match=r"context = 6 must be at least 1 and within the video \(5 frames read\)"):
        world.transfer(frames, frames, context=6)


def test_verbs_drop_the_batch_only_for_single_videos(world, video, frames_of):
    frames = frames_of(6, size=32)
    made = world.transfer(video, frames)
    assert made.z.shape == (39, 6)
    assert made.e.shape == (39, 4, 4, 12)
    batch = torch.stack([frames_of(6, 1, 32), frames_of(6, 2, 32)])
    both = world.transfer(frames, batch)
    assert both.e.shape == (2, 5, 4, 4, 12)
    torch.testing.assert_close(both.e[1], world.transfer(frames, batch[1]).e, rtol=1e-4, atol=5e-5)
    assert world.cycle(frames, frames).back.shape == (5, 4, 4, 12)
    assert world.rebind(frames, batch).e.shape == (2, 5, 4, 4, 12)
    assert world.isolate(frames).e.shape == (5, 4, 4, 12)
    with pytest.raises(DilaError, match="2 clips cannot be paired with 3"):
        world.transfer(batch, torch.stack([frames] * 3))


def test_drawing_undoes_encoding(world, frames_of):
    frames = frames_of(40, size=32)
    drawn = world.draw(world.features(frames))
    assert drawn.dtype == torch.uint8
    torch.testing.assert_close(drawn, frames)
    assert world.draw(world.features(frames[None])).shape == (1, 40, 3, 32, 32)


def test_what_was_drawn_takes_the_shape_of_its_video(world, frames_of):
    frames = frames_of(4, size=32)
    wide = frames.repeat_interleave(2, -1)
    torch.testing.assert_close(world.features(wide), world.features(frames))  # the encoder sees a square
    drawn = world.draw(world.features(wide), wide)
    assert drawn.shape == (4, 3, 16, 32)
    assert world.draw(world.features(wide[None]), wide).shape == (1, 4, 3, 16, 32)


def test_pictures_are_the_frames_that_are_seen_and_small(world, video, frames_of, monkeypatch):
    frames = read_video(video, range(40))
    world.stride = 0.2
    torch.testing.assert_close(world.pictures(video), frames[::2])
    torch.testing.assert_close(world.pictures(video, limit=3), frames[:6:2])
    monkeypatch.setattr("dila.imagine.world.SHOWN", 16)
    assert world.pictures(video).shape == (20, 3, 16, 16)
    wide = frames_of(3, size=32).repeat_interleave(2, -1)
    assert world.pictures(wide).shape == (3, 3, 8, 16)
    assert world.pictures(wide[None], limit=2).shape == (1, 2, 3, 8, 16)
    with pytest.raises(DilaError, match="limit = 0 must be at least 1"):
        world.pictures(video, limit=0)


def test_drawing_without_a_decoder_says_how_to_get_one(model, encoder):
    with pytest.raises(DilaError, match="dila train-decoder"):
        World(model, encoder).draw(torch.zeros(1, 4, 4, 12))


def test_any_model_can_transfer_but_only_dila_rebinds(shift, encoder, frames_of):
    world = World(shift, encoder)
    assert world.transfer(frames_of(5), frames_of(3, 1)).e.shape == (4, 4, 4, 12)
    with pytest.raises(DilaError, match="rebind needs a DiLA"):
        world.rebind(frames_of(5), frames_of(5))
    with pytest.raises(DilaError, match="isolate needs a DiLA"):
        world.isolate(frames_of(5))


def test_bf16_is_close_and_not_equal(world, model, encoder, frames_of):
    frames = frames_of(6)
    z = World(model, encoder, frames=8, bf16=True).infer(frames)
    assert z.dtype == torch.float32
    exact = world.infer(frames)
    assert 0 < (z - exact).norm() < 0.3 * exact.norm()


def test_nothing_keeps_gradients_and_dropout_is_off(world, model, encoder, frames_of):
    model.train()
    world = World(model, encoder)
    assert not model.training
    z = world.infer(frames_of(4))
    assert not z.requires_grad
    assert not z.is_inference()


@pytest.mark.parametrize(
    "frames", [torch.zeros(4, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(4, 8, 8, 3).byte()]
)
def test_frames_of_another_kind_are_refused(world, frames):
    with pytest.raises(DilaError, match="frames of shape T 3 Y X"):
        world.infer(frames)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("video", [None, [np.zeros((4, 3, 8, 8), np.uint8)], np.zeros((4, 3, 8, 8)), b"a.mp4"])
def test_what_is_no_video_is_refused(world, video):
    with pytest.raises(DilaError, match=f"a video should be a path, .* not {type(video).__name__}"):
        world.infer(video)


def test_arrays_of_frames_are_taken_as_they_lie(world, frames_of):
    frames = frames_of(6).numpy()
    locked = np.ascontiguousarray(frames[::-1])
    locked.flags.writeable = False
    for turned in (frames[::-1], locked):
        torch.testing.assert_close(world.infer(turned), world.infer(torch.from_numpy(frames).flip(0)))
    assert world.infer(frames[None]).shape == (1, 5, 6)
    assert world.transfer(frames, frames[:1]).z.shape == (5, 6)
    with pytest.raises(DilaError, match=r"uint8 \[0, 6, 3, 16, 16\]"):
        world.infer(frames[None][:0])


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z[:, :3], "z has 3 numbers per action, but this model.s latent actions have 6"),
        (lambda z: z[0], r"not Tensor of torch.float32 \[6\]"),
        (lambda z: z.double(), "not Tensor of torch.float64"),
        (lambda z: z.numpy(), "not ndarray of float32"),
        (lambda z: torch.stack([z, z]), "z has a batch of 2, but the video has 1"),
        (lambda z: z * float("nan"), "NaN or infinite"),
    ],
)
def test_actions_of_another_kind_are_refused(world, frames_of, change, message):
    frames = frames_of(5)
    with pytest.raises(dila.DilaError, match=message):
        world.rollout(frames, change(world.infer(frames)))


@pytest.mark.usefixtures("as_installed")
def test_only_features_are_drawn(world, frames_of):
    for e in (frames_of(4), world.features(frames_of(4)).numpy(), torch.zeros(4, 4, 12), torch.zeros(2, 4, 4, 11)):
        with pytest.raises(DilaError, match="e should be features, a float tensor T 4 4 12"):
            world.draw(e)


def test_paths_that_are_not_one_video_are_refused(world, videos, tmp_path, frames_of):
    with pytest.raises(DilaError, match="contains 5 videos"):
        world.infer(videos)
    with pytest.raises(DilaError, match="does not exist"):
        world.infer(tmp_path / "none.mp4")
    write_video(tmp_path / "slow.mp4", frames_of(5, size=32), 2)
    with pytest.raises(DilaError, match="higher frame rate"):
        world.infer(tmp_path / "slow.mp4")
    with pytest.raises(DilaError, match="stride = 0"):
        World(world.model, world.encoder, stride=0.0)


def test_importing_dila_imports_no_torch():
    code = "import sys, dila; dila.__version__; assert 'torch' not in sys.modules; print(dila.load, dila.World)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dila.imagine.world.World" in done.stdout
