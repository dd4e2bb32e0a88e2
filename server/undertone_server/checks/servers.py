"""Checks of what runs: the SuperLink, nginx before it, the sites that are connected."""

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path

from undertone.errors import SuperLinkUnreachable
from undertone.preflight import fleet_checks, surroundings
from undertone.preflight.verdict import Verdict, failed, passed, warned
from undertone_server.checks.inspection import Inspection
from undertone_server.home.fleet import connections

_LISTENING = "0A"  # of /proc/net/tcp
_WHOSE = "this coordinator"


def proxy(inspection: Inspection) -> Verdict:
    """What is for this machine does not go to a proxy."""
    return surroundings.proxy(inspection.environment)


def superlink(inspection: Inspection) -> Verdict:
    """It answers on loopback."""
    try:
        connections(inspection.home)
    except SuperLinkUnreachable as error:
        remedy = "start it: `undertone coordinator start`, or its unit"
        return failed("SuperLink", "the SuperLink does not answer on this machine", remedy, [str(error)])
    return passed("SuperLink", "the SuperLink answers on this machine")


def ports(inspection: Inspection) -> Verdict:
    """The SuperLink's ports are open to this machine alone: whoever reaches them can start runs."""
    settings = inspection.home.settings
    own = {settings.superlink_port, settings.health_port}
    try:
        listening = [one for path in inspection.sockets if path.exists() for one in _listening(path)]
    except OSError:
        listening = []
    if not any(path.exists() for path in inspection.sockets):
        sentence = "which addresses the SuperLink's ports listen on cannot be seen on this system"
        return warned("ports", sentence, "see with the system's own tools that it is 127.0.0.1 alone")
    open_ = sorted({port for address, port in listening if port in own and not address.is_loopback})
    if open_:
        sentence = "a port of the SuperLink is open to the network: whoever reaches it can start and stop runs"
        remedy = "start the SuperLink with --host=127.0.0.1, as `undertone coordinator start` does"
        return failed("ports", sentence, remedy, [f"port {port} listens on more than loopback" for port in open_])
    return passed("ports", "the SuperLink's ports are open to this machine alone")


def _listening(path: Path) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Address and port of each listening socket of a table of Linux: 32-bit words in the machine's own order."""
    for line in path.read_text(encoding="ascii").splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        if state == _LISTENING:
            address, port = local.split(":")
            words = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
            found = ipaddress.ip_address(b"".join(words))
            mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
            yield mapped or found, int(port, 16)


def nginx(inspection: Inspection) -> Verdict:
    """The server that sites see answers, with the certificate that they know."""
    return fleet_checks.server("nginx", _WHOSE, inspection.seen, inspection.now)


def closed(inspection: Inspection) -> Verdict:
    """Nobody starts or stops runs through it."""
    return fleet_checks.closed("control API", _WHOSE, inspection.seen)


def body(inspection: Inspection) -> Verdict:
    """Large messages get through it."""
    return fleet_checks.body("large messages", _WHOSE, inspection.seen)


def sites(inspection: Inspection) -> Verdict:
    """Each site is registered at the SuperLink, and its SuperNode is connected."""
    try:
        found = connections(inspection.home)
    except SuperLinkUnreachable:
        return warned("sites", "the SuperLink could not be asked", "see the check of the SuperLink")
    details = [f"{name}: {status}" for name, status in found.items()]
    unknown = [name for name, status in found.items() if status == "unregistered"]
    if unknown:
        sentence = f"the SuperLink does not know the key of {', '.join(unknown)}"
        remedy = "`undertone coordinator sync`; a key that was unregistered once needs `node request --new-keys`"
        return failed("sites", sentence, remedy, details)
    away = [name for name, status in found.items() if status != "online"]
    if away:
        sentence = f"not connected: {', '.join(away)}"
        return warned("sites", sentence, "ask there for `undertone node check`; a study waits for them", details)
    if not found:
        return failed("sites", "no site is in", "`undertone coordinator add-node`")
    return passed("sites", "every site is registered and connected", details)
