"""The list of checks, in the order in which they are shown. A new check is one function and one line here."""

from collections.abc import Callable, Mapping

from undertone.preflight.verdict import Verdict
from undertone_server.checks.folder import certificates, clock, code, disk, flower, keys, manifest
from undertone_server.checks.inspection import Inspection
from undertone_server.checks.servers import body, closed, nginx, ports, proxy, sites, superlink

CHECKS: Mapping[str, Callable[[Inspection], Verdict]] = {
    "clock": clock,
    "keys": keys,
    "certificates": certificates,
    "manifest": manifest,
    "code": code,
    "flower": flower,
    "disk": disk,
    "proxy": proxy,
    "SuperLink": superlink,
    "ports": ports,
    "nginx": nginx,
    "control API": closed,
    "large messages": body,
    "sites": sites,
}
