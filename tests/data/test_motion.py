import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dila.data.motion import Motion, MotionLimits, judge, measure_motion, sort_by_motion
from dila.data.video import VideoEpisode, probe_video, write_video
from dila.errors import DilaError

FPS, ROWS, COLUMNS = 12, 120, 160


def texture(rng, side):
    fine, coarse = (torch.from_numpy(rng.normal(size=(1, 3, side // n, side // n))).float() for n in (6, 24))
    both = [F.interpolate(x, (side, side), mode="bicubic") * w for x, w in ((fine, 0.5), (coarse, 1.0))]
    return (sum(both) * 45 + 128).clamp(0, 255)


def film(seed, hand=False, pan=0.0, zoom=0.0, turn=0.0, shake=0.0, light=0.0):
    """A textured scene, seen by a camera that moves by so much a second, before which a hand may pass."""
    rng = np.random.default_rng(seed)
    scene, thing, out = texture(rng, 480), texture(rng, 480)[0], []
    for f in range(24):
        s = f / FPS
        c, d = np.cos(turn * s), np.sin(turn * s)
        jitter = rng.normal(size=2) * shake / 3
        matrix = torch.tensor([[c, -d * ROWS / COLUMNS], [d, c * ROWS / COLUMNS]]) * (1 - zoom * s) / 3
        at = torch.tensor([[pan * s * 2 / 3 - 0.3 + jitter[0]], [jitter[1]]])
        grid = F.affine_grid(torch.cat([matrix, at], 1)[None].float(), [1, 3, ROWS, COLUMNS], align_corners=False)
        picture = F.grid_sample(scene, grid, align_corners=False, padding_mode="reflection")[0].clone()
        if hand:
            x, y = int(10 + 50 * s), int(40 + 20 * np.sin(3 * s))
            picture[:, y : y + 50, x : x + 40] = thing[:, :50, :40]
        picture = picture * (1 + light * np.sin(f)) + torch.from_numpy(rng.normal(size=picture.shape) * 4).float()
        out.append(picture.clamp(0, 255).to(torch.uint8))
    return torch.stack(out)


@pytest.fixture
def seen(tmp_path):
    """The episode of a film, through a compressed file."""

    def seen(seed, **how):
        path = tmp_path / f"{seed}-{'-'.join(how)}.mp4"
        write_video(path, film(seed, **how), FPS)
        return VideoEpisode(path.name, path, probe_video(path))

    return seen


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        ({}, "static"),
        ({"light": 0.1}, "static"),
        ({"hand": True}, None),
        ({"hand": True, "shake": 0.003}, None),
        ({"pan": 0.1}, "camera"),
        ({"pan": 0.25, "hand": True}, "camera"),
        ({"zoom": 0.12}, "camera"),
        ({"turn": 0.2}, "camera"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else str(x),
)
def test_clips_that_stand_still_or_are_moved_by_their_camera_are_told(seen, seed, how, verdict):
    motion = measure_motion(seen(seed, **how))
    assert judge(motion) == verdict, motion


def test_what_moves_in_colour_alone_is_seen(tmp_path):
    """A red square on a blue ground that is as bright."""
    frames = torch.tensor([30, 60, 180], dtype=torch.uint8)[None, :, None, None].repeat(24, 1, ROWS, COLUMNS)
    for f in range(24):
        frames[f, :, 40:70, 4 * f : 4 * f + 30] = torch.tensor([180, 60, 30], dtype=torch.uint8)[:, None, None]
    write_video(tmp_path / "disc.mp4", frames, FPS)
    motion = measure_motion(VideoEpisode("disc", tmp_path / "disc.mp4", probe_video(tmp_path / "disc.mp4")))
    assert motion.changed > 0.02
    assert judge(motion) is None


def test_the_numbers_mean_what_they_say(seen):
    pan = measure_motion(seen(0, pan=0.25))
    assert abs(pan.camera - 0.25) < 0.01  # widths a second
    assert pan.followed > 0.85
    assert pan.own < 0.01
    hand = measure_motion(seen(0, hand=True))
    assert hand.camera < 0.01
    assert abs(hand.own - hand.changed) < 0.02
    assert 0.05 < hand.changed < 2 * 2000 / (ROWS * COLUMNS)


def test_limits_can_be_moved():
    motion = Motion(changed=0.3, camera=0.05, followed=0.9, own=0.0)
    assert judge(motion) is None
    assert judge(motion, MotionLimits(camera=0.04)) == "camera"
    assert judge(motion, MotionLimits(still=0.4)) == "static"


class Frames:
    def __init__(self, frames, name="a"):
        self.id, self.frames, self.times, self.columns = name, frames, np.arange(len(frames)) / 10, {}

    def read(self, frames):
        return self.frames[list(frames)]

    def fingerprint(self):
        return self.id


def test_short_clips_count_and_single_frames_and_features_do_not(seen):
    assert judge(measure_motion(Frames(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)))) == "static"
    with pytest.raises(DilaError, match="a has 1 frames; measuring motion needs at least 2"):
        measure_motion(Frames(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)))
    with pytest.raises(DilaError, match="a has features"):
        measure_motion(Frames(torch.zeros(5, 4, 4, 6)))


def test_a_corpus_is_sorted_with_reasons(seen):
    broken = seen(3, hand=True)
    broken.path.write_bytes(b"")
    still, hand = seen(1), seen(2, hand=True)
    kept, dropped = sort_by_motion([still, hand, broken])
    assert kept == [hand]
    assert dropped[still.id][0] == "static"
    assert dropped[still.id][1].changed < 0.005
    assert "is not a readable" in dropped[broken.id][0] or "is empty" in dropped[broken.id][0]
