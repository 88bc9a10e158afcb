"""What a model's action encoder is asked, whichever model it is of."""

from torch import nn

from dila.errors import DilaError
from dila.shapes import Float, Tensor


def encoded(encoder: nn.Sequential | None, a: Float[Tensor, "B K _"]) -> Float[Tensor, "B K Dz"]:
    """Real actions through the action encoder, whose first layer is linear.

    Raises:
        DilaError: there is no encoder, or actions are of another width than it takes.
    """
    if encoder is None:
        raise DilaError("this model knows latent actions alone; give it real ones with: dila adapt MODEL DATA")
    width = encoder[0].in_features
    if a.shape[-1] != width:
        raise DilaError(
            f"actions are of {a.shape[-1]} numbers, but the model's of {width}; give all raw actions of a transition "
            "side by side, as ActionSpace.hold does"
        )
    return encoder(a)
