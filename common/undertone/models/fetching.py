"""Fetching a base model from the Hugging Face Hub: the one place that goes online, when a person asks for it.

Planning, nodes and coordinators look on disk alone (`pinned.py`).
"""

from pathlib import Path

from undertone.errors import ModelError
from undertone.models.class_names import FILE as CLASSES
from undertone.models.pinned import PinnedBase, is_hub_id, pin

_FILES = (
    "model_index.json",
    CLASSES,
    "*/*.json",
    "*/*.txt",
    "*/*.jinja",
    "*/*.model",
    "*/*.safetensors",
    "README.md",
    "LICENSE*",
)


def fetch(reference: str, revision: str) -> PinnedBase:
    """Download a base into this machine's Hugging Face cache and pin it.

    Args:
        reference: a hub id such as `org/name`.
        revision: a commit, or a branch or tag whose commit is then named by the result.

    Raises:
        ModelError: it cannot be fetched, or is no base that Undertone can use.
    """
    if not is_hub_id(reference) or Path(reference).is_dir():
        raise ModelError(f'"{reference}" is no hub id: only models of the Hugging Face Hub are fetched')
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(reference, revision=revision, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"{reference} at {revision} could not be fetched ({type(error).__name__}); check name, revision and network"
        ) from None
    return pin(reference, folder.name)
