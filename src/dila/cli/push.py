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
    """Upload a trained model with a card of its run's own numbers; `dila.load("user/name")` then loads it anywhere.

    Args:
        model: folder of a trained model or of a run, or box.
        repo: user/name on the Hub; made if it is not there. Log in once with: hf auth login
        title: of the card.
        data: what the model saw, for the card.
        limits: what it cannot do, for the card.
        licence: of the weights, as the Hub names licences; mit when left out.
        private: make the repository private.
        half: float16 weights, half the size.
    """
    from dila.interop.hub import push_to_hub

    address = push_to_hub(model, repo, about(title, data, limits, licence), private=private, half=half)
    print(f"uploaded {model} to {repo}: {address}")
