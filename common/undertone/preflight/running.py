"""Checks are run one after the other, and each gives one verdict."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from undertone.core.text import shown
from undertone.preflight.verdict import Verdict, failed

_Subject = TypeVar("_Subject")


def run(checks: Mapping[str, Callable[[_Subject], Verdict]], subject: _Subject) -> Iterator[Verdict]:
    """Each check's verdict; one that ends with an error has failed, and the others go on.

    What the error says may name a record, so it stands in the details alone.
    """
    for name, check in checks.items():
        try:
            yield check(subject)
        except Exception as error:  # noqa: BLE001 - as above
            kind = type(error).__name__
            remedy = "--details shows what it said"
            yield failed(name, f"this could not be checked: {kind}", remedy, [shown(f"{kind}: {error}", 2000)])
