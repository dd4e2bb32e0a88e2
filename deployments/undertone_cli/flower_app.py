"""Where the Flower app lies: one pyproject.toml that names installed modules, in a wheel and in a clone."""

from pathlib import Path

from undertone.errors import FolderError


def flower_app() -> Path:
    """The folder of the app.

    Raises:
        FolderError: the installation lacks it.
    """
    here = Path(__file__).resolve().parent
    for place in (here / "flower", here.parent / "flower"):
        if (place / "pyproject.toml").is_file():
            return place
    raise FolderError(f"{here} has no Flower app (flower/pyproject.toml); install undertone-federated again")
