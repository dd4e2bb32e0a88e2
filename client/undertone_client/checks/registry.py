"""The list of checks, in the order in which they are shown. A new check is one function and one line here."""

from collections.abc import Callable, Mapping

from undertone.preflight.verdict import Verdict
from undertone_client.checks.books import audit_log, ledger
from undertone_client.checks.connection import body, closed, coordinator, flower, manifest, node, proxy, relay
from undertone_client.checks.data import data, units
from undertone_client.checks.inspection import Inspection
from undertone_client.checks.keys import keys
from undertone_client.checks.machine import clock, device, disk
from undertone_client.checks.plans import base_models, code, device_memory, policy

Check = Callable[[Inspection], Verdict]

CHECKS: Mapping[str, Check] = {
    "clock": clock,
    "keys": keys,
    "ledger": ledger,
    "audit log": audit_log,
    "manifest": manifest,
    "policy": policy,
    "code": code,
    "flower": flower,
    "base models": base_models,
    "device": device,
    "data": data,
    "units": units,
    "disk": disk,
}
# Of a site that has joined a federation over a network: its coordinators' servers, and its own processes.
CONNECTED: Mapping[str, Check] = {
    "proxy": proxy,
    "coordinator": coordinator,
    "control API": closed,
    "large messages": body,
    "node": node,
    "relay": relay,
}
# Only where they are asked for: they load the base model.
SLOW: Mapping[str, Check] = {"device memory": device_memory}


def checks_of(inspection: Inspection, *, device_memory: bool = False) -> Mapping[str, Check]:
    """The checks that a site is due."""
    connected = CONNECTED if inspection.connections else {}
    return {**CHECKS, **connected, **(SLOW if device_memory else {})}
