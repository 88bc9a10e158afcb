"""Upload trained models to the Hugging Face Hub. `dila.interop.pretrained.load_pretrained` loads them by their id."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dila.errors import DilaError, first_line
from dila.interop.find import is_hub_id
from dila.interop.pack import pack


def push_to_hub(
    path: str | Path,
    repo: str,
    about: Mapping[str, Any] | None = None,
    *,
    private: bool = False,
    half: bool = False,
    token: str | None = None,
) -> str:
    """Upload a model with its card, as one commit of a repository, which is created if necessary.

    Args:
        path: path of the model, as for `load_pretrained`.
        repo: ``user/name``.
        about: notes for the card, see `dila.interop.card.model_card`.
        private: make a new repository private.
        half: store float16 weights, half the size.
        token: access token of the Hub; None uses that of ``hf auth login``.

    Returns:
        URL of the commit.

    Raises:
        DilaError: the id or the model does not exist, there is no network, or the Hub refuses.
    """
    if not is_hub_id(repo):
        raise DilaError(f"{repo!r} is not a Hub id; give one of the form user/name")
    import huggingface_hub

    with tempfile.TemporaryDirectory(prefix="dila-push-") as folder:
        packed = pack(path, Path(folder) / "model", about, half=half)
        hub = huggingface_hub.HfApi(token=token)
        try:
            hub.create_repo(repo, private=private, exist_ok=True)
            done = hub.upload_folder(repo_id=repo, folder_path=packed, commit_message="Upload a DiLA model")
        except Exception as error:  # without network the client raises an HTTP error whose type depends on its version
            raise DilaError(
                f"uploading {repo} to the Hub failed: {first_line(error)}; check the network, the id and: hf auth login"
            ) from error
    return str(done)
