"""The only autoregressive loop in the project."""

from collections.abc import Iterator

import torch

from dila.errors import DilaError
from dila.protocols import LatentActionModel, State
from dila.shapes import Features, Float, LatentActions, Tensor


def steps(
    model: LatentActionModel[State], state: State, z: LatentActions
) -> Iterator[tuple[State, Float[Tensor, "B H W D"]]]:
    """Roll out under the latent actions; yield each new state with the features predicted for it.

    Raises DilaError if the width of z differs from the model config's ``action_dim``, if it has one.
    """
    width = getattr(getattr(model, "config", None), "action_dim", z.shape[-1])
    if z.shape[-1] != width:
        raise DilaError(f"z has {z.shape[-1]} numbers per action, but this model's latent actions have {width}")
    for k in range(z.shape[1]):
        state, e_hat = model.step(state, z[:, k])
        yield state, e_hat


def rollout(model: LatentActionModel[State], context: Features, z: LatentActions) -> Float[Tensor, "B K H W _"]:
    """Predict features of the K frames after the context (paper equation 5); for a `Layout`, their structure.

    Args:
        model: any `LatentActionModel`.
        context: features of one or more true frames, ``B T H W D``.
        z: latent actions to follow, ``B K Dz``; ``z[:, 0]`` leads from the last context frame.
    """
    return torch.stack([e_hat for _, e_hat in steps(model, model.start(context), z)], dim=1)
