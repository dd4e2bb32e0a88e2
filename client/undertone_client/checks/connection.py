"""Checks of what joins a site to its coordinators: manifests, servers, the node's own processes.

Each looks at every coordinator whose federation the site has joined, and gives the first fault.
"""

import os
import stat
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from undertone.core.clock import moment
from undertone.core.joining import ReadWelcome
from undertone.errors import FolderError, InputError, NotApproved
from undertone.preflight import fleet_checks, surroundings
from undertone.preflight.fleet import Seen
from undertone.preflight.verdict import Verdict, failed, first_fault, passed, warned
from undertone_client.checks.inspection import Inspection
from undertone_client.relay.presence import presence
from undertone_client.service.client import NodeClient
from undertone_client.service.place import socket_of

_ANSWER_SECONDS = 5.0
_JOIN = "take the coordinator's newest welcome: `undertone node join`"
_START = "start the site: `undertone node start`, or its units; what it prints says what is missing"


def flower(_: Inspection) -> Verdict:
    """Flower is a version whose internals the relay knows."""
    return surroundings.flower(version("flwr"))


def proxy(inspection: Inspection) -> Verdict:
    """What is for this machine does not go to a proxy."""
    return surroundings.proxy(inspection.environment)


def manifest(inspection: Inspection) -> Verdict:
    """Each pinned manifest holds, for a while yet, and is not older than a welcome that is at hand."""
    if not inspection.site.policy.federations:
        return passed("manifest", "no federation is joined yet")
    verdicts = [_manifest(inspection, name) for name in inspection.site.policy.federations]
    return first_fault([*verdicts, *(_welcome(inspection, data) for data in inspection.welcomes)])


def _manifest(inspection: Inspection, name: str) -> Verdict:
    try:
        federation = inspection.site.pinned_federation(name)
    except NotApproved as error:
        sentence = f"the federation manifest of {name} is not the one that this site approved"
        return failed("manifest", sentence, "join the same welcome once more", [str(error)])
    ends = moment(federation.expires)
    details = [f"manifest {federation.serial} of {federation.name}, until {federation.expires}"]
    if ends <= inspection.now:
        return failed("manifest", f"the federation manifest of {name} has expired: no study goes on", _JOIN, details)
    if ends - inspection.now < fleet_checks.SOON:
        sentence = f"the federation manifest of {name} expires within a month"
        return warned("manifest", sentence, f"ask for a newer one, then {_JOIN}", details)
    return passed("manifest", "each federation manifest holds for a month and more", details)


def _welcome(inspection: Inspection, data: bytes) -> Verdict:
    """A welcome that the coordinator sent, against what is pinned."""
    try:
        newest = ReadWelcome(data).federation
    except (InputError, NotApproved) as error:
        return failed("manifest", "the welcome that was given cannot be taken", "ask for it again", [str(error)])
    policy = inspection.site.policy
    pinned = [inspection.site.pinned_federation(name) for name in policy.federations]
    ours = [one for one in pinned if one.name == newest.name]
    if not ours or all(one.serial < newest.serial for one in ours):
        sentence = "a federation manifest of this site is older than the coordinator's"
        return failed("manifest", sentence, _JOIN, [f"the coordinator's is manifest {newest.serial} of {newest.name}"])
    return passed("manifest", "each federation manifest is the coordinator's newest")


def coordinator(inspection: Inspection) -> Verdict:
    """Each coordinator's server is reached, and is the one that was pinned."""

    def one(name: str, seen: Seen) -> Verdict:
        return fleet_checks.server("coordinator", name, seen, inspection.now)

    return first_fault([_ca(inspection, name) for name in inspection.connections] + _each(inspection, one))


def _ca(inspection: Inspection, name: str) -> Verdict:
    """The CA's file is the one of the manifest."""
    found = inspection.ca_sha256(name)
    if found != inspection.site.pinned_federation(name).ca_sha256:
        sentence = f"ca.crt of {name} is not the certificate that its federation manifest names"
        return failed("coordinator", sentence, "join the same welcome once more: it brings the certificate")
    return passed("coordinator", "each CA certificate is the one of its manifest")


def closed(inspection: Inspection) -> Verdict:
    """Each coordinator's server lets nobody start or stop runs."""
    return first_fault(_each(inspection, lambda name, seen: fleet_checks.closed("control API", name, seen)))


def body(inspection: Inspection) -> Verdict:
    """Large messages get through."""
    return first_fault(_each(inspection, lambda name, seen: fleet_checks.body("large messages", name, seen)))


def _each(inspection: Inspection, check: Callable[[str, Seen], Verdict]) -> list[Verdict]:
    return [check(name, inspection.seen(name)) for name in inspection.connections]


def node(inspection: Inspection) -> Verdict:
    """The node serves at its socket, which is its owner's alone."""
    socket = socket_of(inspection.site.folder, inspection.socket)
    try:
        found, folder = socket.lstat(), socket.parent.stat()
    except FileNotFoundError:
        return failed("node", "no node serves here: its socket is not there", _START)
    if not stat.S_ISSOCK(found.st_mode):
        return failed("node", "what lies at the place of the node's socket is no socket", f"remove it, then {_START}")
    ours = (0, os.geteuid())
    if stat.S_IMODE(found.st_mode) & 0o177 or found.st_uid not in ours:
        sentence = "the node's socket can be used by others on this machine"
        return failed("node", sentence, "stop the site and start it anew, and find out who changed its rights")
    if stat.S_IMODE(folder.st_mode) & 0o027 or folder.st_uid not in ours:
        sentence = "the folder of the node's socket is open to others on this machine"
        return failed("node", sentence, "chmod 750 that folder: run/ in SITE_DIR, unless --socket names another")
    with NodeClient(socket) as client:
        if not client.serves(_ANSWER_SECONDS):
            return failed("node", "the node does not answer at its socket", _START)
    return passed("node", "the node answers at its socket, which is its owner's alone")


def relay(inspection: Inspection) -> Verdict:
    """For each coordinator a relay runs, and its SuperNode knows it."""
    return first_fault([_relay(inspection.site.folder, name) for name in inspection.connections])


def _relay(folder: Path, name: str) -> Verdict:
    try:
        state = presence(folder, name)
    except FolderError as error:
        remedy = "run the check as the account that runs the site"
        return failed("relay", f"it cannot be seen whether the relay of {name} runs", remedy, [str(error)])
    if state == "absent":
        return failed("relay", f"no relay to {name} runs here", _START)
    if state == "alone":
        sentence = f"the relay to {name} finds no SuperNode that knows it"
        remedy = "see what the SuperNode prints; it ends with 305 where the coordinator does not know this site's key"
        return failed("relay", sentence, remedy)
    return passed("relay", "relay and SuperNode of each coordinator run; whether it sees them, the coordinator can say")
