"""``dila push``."""

from tyro.conf import Positional

from dila.cli.pack import about


def push(
    model: Positional[str],
    repo: Positional[str],
    title: str | None = None,
    data: str | None = None,
    limits: str | None = None,
    licence: str | None = None,
    private: bool = False,
    half: bool = False,
) -> None:
    """Upload a trained model with a card that states its metrics; `dila.load("user/name")` then loads it anywhere.

    Args:
        model: folder of a trained model or of a run, or box.
        repo: user/name on the Hub; created if it does not exist. Log in once with: hf auth login
        title: title of the card.
        data: training data, for the card.
        limits: limitations, for the card.
        licence: licence of the weights, as named on the Hub; default mit.
        private: make the repository private.
        half: store float16 weights, half the size.
    """
    from dila.interop.hub import push_to_hub

    address = push_to_hub(model, repo, about(title, data, limits, licence), private=private, half=half)
    print(f"uploaded {model} to {repo}: {address}")
