import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from dila.errors import DilaError
from dila.metrics.video import I3D, frechet_distance, motion_features


@pytest.mark.parametrize(("clips", "channels"), [(200, 5), (20, 40)])
def test_it_is_the_formula_with_the_root_of_the_product(clips, channels):
    x, y = torch.randn(clips, channels), 0.5 * torch.randn(clips + 3, channels) + 0.3
    a, b = x.double().numpy(), y.double().numpy()
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = np.trace(sqrtm(ca @ cb).real)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_the_same_set_is_at_no_distance_and_a_shift_at_its_square():
    x = torch.randn(50, 8)
    assert frechet_distance(x, x) < 1e-9
    assert frechet_distance(x, x + 2) == pytest.approx(8 * 4, rel=1e-5)
    with pytest.raises(DilaError, match="two clips"):
        frechet_distance(x[:1], x)


def test_motion_features_tell_a_moving_clip_from_a_still_one():
    e = torch.randn(2, 5, 4, 4, 3)
    still = e[:, :1].expand_as(e)
    moving, fixed = motion_features(e), motion_features(still)
    assert moving.shape == (2, 9)
    assert (fixed[:, 6:] == 0).all()
    assert (moving[:, 6:] > 0.5).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_an_i3d_is_called_as_its_torchscript_wants(tmp_path):
    class Detector(torch.nn.Module):
        def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
            assert not rescale
            assert not resize
            assert return_features
            return torch.cat([x.mean([2, 3, 4]), torch.full([x.shape[0], 1], float(x.shape[3]))], 1)

    path = tmp_path / "i3d.pt"
    torch.jit.script(Detector()).save(str(path))
    i3d = I3D(path)
    told = i3d(torch.full((2, 10, 3, 16, 16), 0.75))
    torch.testing.assert_close(told, torch.tensor([[0.5, 0.5, 0.5, 224.0]] * 2))
    told = i3d(torch.full((1, 10, 3, 16, 16), 204, dtype=torch.uint8))
    torch.testing.assert_close(told, torch.tensor([[0.6, 0.6, 0.6, 224.0]]))
    with pytest.raises(DilaError, match="10 frames, not 4"):
        i3d(torch.zeros(1, 4, 3, 16, 16))
    path.write_bytes(b"nothing")
    with pytest.raises(DilaError, match="not a TorchScript"):
        I3D(path)
    with pytest.raises(DilaError, match="does not exist"):
        I3D(tmp_path / "none.pt")
