import pytest
import torch

from dila.demo.compass import cluster, find_compass, motion
from dila.demo.pad import SIZE, amounts, draw_pad, place
from dila.demo.play import begin, film, move
from dila.errors import DilaError


@pytest.fixture(scope="module")
def compass(box, clips):
    return find_compass(box, clips)


def square(*places, dark=True):
    frames = torch.full((len(places), 3, 64, 64), 255 if dark else 0, dtype=torch.uint8)
    for frame, (x, y) in zip(frames, places, strict=True):
        frame[:, y : y + 8, x : x + 8] = 0 if dark else 255
    return frames


@pytest.mark.parametrize("dark", [True, False])
def test_motion_is_to_where_a_thing_went_whatever_its_shade(dark):
    moved = motion(square((0, 0), (16, 0), (16, 32), (16, 32), (0, 32), dark=dark))
    assert moved.sign().tolist() == [[1, 0], [0, 1], [0, 0], [-1, 0]]
    assert moved[0, 0] == pytest.approx(16 / 64, abs=0.01)


def test_the_pad_goes_where_it_points(box, clips, compass):
    """The agent of Push-T is blue: its middle moves the way that was asked for, in a clip where it is free to."""
    went = {}
    for name, amount in {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}.items():
        shift = []
        for clip in clips:
            made = begin(box, clip[:1])
            for _ in range(3):
                made = move(box, made, compass.point(amount))
            shift.append(blue(film(made)[1:]))
        went[name] = torch.stack(shift).nanmedian(0).values
    assert went["right"][0] > went["left"][0] + 0.02
    assert went["down"][1] > went["up"][1] + 0.02


def blue(frames):
    """How far the blue went between the first and the last frame, right and down, in widths."""
    # The block's grey is bluer than red by 34.
    share = (frames[:, 2].float() - frames[:, 0].float() - 40).clamp_min(0)
    ticks = torch.linspace(0, 1, frames.shape[-1])
    total = share.sum((1, 2))
    total[total < 200] = float("nan")
    place = torch.stack([(share.sum(1) @ ticks) / total, (share.sum(2) @ ticks) / total], dim=1)
    return place[-1] - place[0]


def test_actions_have_the_names_of_where_things_go(compass):
    assert compass.actions["still"].equal(compass.origin)
    ways = {name: compass.read(z)[:2] for name, z in compass.actions.items()}
    assert len(ways) >= 5
    agree = [
        (sign * ways[name][axis] > 0).item()
        for name in ways
        for word, axis, sign in (("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1))
        if word in name.split(",")[0].split()
    ]
    assert sum(agree) > 0.8 * len(agree)


def test_it_is_the_same_each_time(box, clips, compass):
    again = find_compass(box, clips)
    assert again.axes.equal(compass.axes)
    assert list(again.actions) == list(compass.actions)


def test_amounts_there_and_back(compass):
    z = compass.point([0.5, -1.0, 0.25])
    torch.testing.assert_close(compass.read(z)[:3], torch.tensor([0.5, -1.0, 0.25]), atol=1e-4, rtol=1e-4)
    assert compass.point([]).equal(compass.origin)
    with pytest.raises(DilaError, match="5 amounts were given, but there are only 4 directions"):
        compass.point([0.0] * 5)


def test_nothing_to_look_at_is_refused(box):
    with pytest.raises(DilaError, match="there are no example clips"):
        find_compass(box, [])


def test_clusters_are_found():
    x = torch.cat([torch.randn(20, 3) * 0.1 + centre for centre in (0.0, 5.0, -5.0)])
    centres, belongs = cluster(x, 3)
    assert sorted(centres.mean(1).round().tolist()) == [-5, 0, 5]
    assert [len(belongs[i : i + 20].unique()) for i in (0, 20, 40)] == [1, 1, 1]


def test_the_pad_shows_every_action_and_a_click_says_how_much(compass):
    picture = draw_pad(compass)
    assert picture.size == (SIZE, SIZE)
    assert len(picture.getcolors(100_000)) > 3
    assert amounts(*place([0.5, -0.75])) == pytest.approx((0.5, -0.75))
    assert amounts(SIZE / 2, SIZE / 2) == (0, 0)
    assert amounts(10 * SIZE, -3) == (1.25, -1.25)
