"""Deaths at a chosen moment."""

from typing import Any

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package may catch it."""


def kill_before(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Die when `owner.name` is called."""

    def dying(*_: Any, **__: Any) -> Any:
        raise Killed

    patch.setattr(owner, name, dying)


def kill_after(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Die right after `owner.name` has done its work."""
    original = getattr(owner, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        raise Killed

    patch.setattr(owner, name, dying)
