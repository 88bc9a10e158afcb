"""Errors of predicted features, in the layouts of `dila.shapes`.

Errors are ratios to the error of copying a frame: 1 is as bad as copying, 0 is perfect.
"""

from dila.shapes import Features, Float, Tensor


def rollout_ratio(e_hat: Float[Tensor, "B K H W D"], e: Features) -> Float[Tensor, " K"]:
    """Return the squared error of a rollout from the first frame over that of copying this frame, by horizon.

    Args:
        e_hat: predicted frames 1..K.
        e: true frames 0..K.
    """
    return _ratio(e_hat, e[:, 1:], e[:, :1])


def pooled_rollout_ratio(e_hat: Float[Tensor, "B K H W D"], e: Features) -> Float[Tensor, ""]:
    """Return `rollout_ratio` over all horizons together: total error over the total error of copying."""
    return _pooled(e_hat, e[:, 1:], e[:, :1])


def one_step_ratio(e_hat: Float[Tensor, "B K H W D"], e: Features) -> Float[Tensor, " K"]:
    """Return the squared error of teacher-forced predictions over that of copying the previous frame, by frame.

    Args:
        e_hat: predicted frames 1..K.
        e: true frames 0..K.
    """
    return _ratio(e_hat, e[:, 1:], e[:, :-1])


def pooled_one_step_ratio(e_hat: Float[Tensor, "B K H W D"], e: Features) -> Float[Tensor, ""]:
    """Return `one_step_ratio` over all frames together: total error over the total error of copying."""
    return _pooled(e_hat, e[:, 1:], e[:, :-1])


def _pooled(e_hat: Tensor, e: Tensor, copied: Tensor) -> Tensor:
    error, copying = ((frames.float() - e.float()).square().mean() for frames in (e_hat, copied))
    return error / copying.clamp_min(1e-8)


def _ratio(e_hat: Tensor, e: Tensor, copied: Tensor) -> Tensor:
    dims = (0, *range(2, e.ndim))
    error = (e_hat.float() - e.float()).square().mean(dims)
    # Copying has no error if nothing moves; the bound keeps the ratio finite.
    return error / (copied.float() - e.float()).square().mean(dims).clamp_min(1e-8)
