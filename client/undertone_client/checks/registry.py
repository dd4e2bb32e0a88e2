"""The list of checks, in the order in which they are shown. A new check is one function and one line here."""

from collections.abc import Callable, Iterator, Mapping

from undertone.core.text import shown
from undertone_client.checks.books import audit_log, ledger
from undertone_client.checks.data import data, units
from undertone_client.checks.inspection import Inspection
from undertone_client.checks.keys import keys
from undertone_client.checks.machine import clock, device, disk
from undertone_client.checks.plans import base_models, code, device_memory, policy
from undertone_client.checks.verdict import Verdict, failed

Check = Callable[[Inspection], Verdict]

CHECKS: Mapping[str, Check] = {
    "clock": clock,
    "keys": keys,
    "ledger": ledger,
    "audit log": audit_log,
    "policy": policy,
    "code": code,
    "base models": base_models,
    "device": device,
    "data": data,
    "units": units,
    "disk": disk,
}
# Only where they are asked for: they load the base model.
SLOW: Mapping[str, Check] = {"device memory": device_memory}


def run(checks: Mapping[str, Check], inspection: Inspection) -> Iterator[Verdict]:
    """Each check's verdict; one that ends with an error has failed, and the others go on.

    What the error says may name a record, so it stands in the details alone.
    """
    for name, check in checks.items():
        try:
            yield check(inspection)
        except Exception as error:  # noqa: BLE001 - as above
            kind = type(error).__name__
            remedy = "--details shows what it said"
            yield failed(name, f"this could not be checked: {kind}", remedy, [shown(f"{kind}: {error}", 2000)])
