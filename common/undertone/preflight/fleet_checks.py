"""What is made of what was seen of a coordinator's server, in words that hold at a site and at the coordinator."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from undertone.preflight.fleet import CLOSED, FLEET, Seen
from undertone.preflight.verdict import Verdict, failed, passed, warned

# Before a certificate or a manifest ends somebody should have a month for it.
SOON = timedelta(days=30)
_TOO_LARGE, _NOT_FOUND = 413, 404
_CANNOT = (500, 507)
_REFUSED = range(400, 500)
# Flower's SuperLink takes no signature that is made 5 s ahead of its clock or 305 s behind it; clocks drift, so less.
_AHEAD, _BEHIND = 3.0, 290.0
_OFF = 2.0
_SURE = 20.0
_SET_CLOCK = "set this machine's clock by NTP, and ask the other side to do the same"
_FAULTS: Mapping[str, tuple[str, str]] = {
    "unreachable": (
        "{} is not reached at its fleet address",
        "see that its server runs, and that firewalls and name servers let this machine out to its host and port",
    ),
    "too slow": (
        "what answers at the fleet address of {} takes minutes",
        "see that the address is nginx's, and how busy its machine and the network are",
    ),
    "proxy": (
        "the proxy does not let this machine out to {}",
        "ask for its host and port to be let through, or name the right proxy in HTTPS_PROXY",
    ),
    "no TLS": (
        "what answers at the fleet address of {} does not speak TLS as it must",
        "see that the address is nginx's; a proxy that opens TLS has to let this address through as it is",
    ),
    "expired": (
        "the certificate of {} has expired, by this machine's clock",
        "at the coordinator: `undertone coordinator rotate certificate`, and start nginx anew; see the clock, too",
    ),
    "not yet valid": (
        "the certificate of {} is not valid yet, by this machine's clock",
        _SET_CLOCK,
    ),
    "other name": (
        "the certificate of {} is for another host than its fleet address",
        "at the coordinator: a certificate for that host, or the right host in coordinator.toml",
    ),
    "foreign": (
        "the certificate of {} is not by the CA that was pinned",
        "take the coordinator's newest welcome if the CA was replaced; else somebody else answers at that address, or "
        "a proxy opens TLS: it has to let this address through as it is",
    ),
}


def server(name: str, whose: str, seen: Seen, now: datetime) -> Verdict:
    """It is reached, by TLS, and its certificate is good for a while."""
    if seen.fault:
        sentence, remedy = _FAULTS[seen.fault]
        return failed(name, sentence.format(whose), remedy, [seen.said])
    last = None if seen.certificate is None else seen.certificate.not_valid_after_utc
    details = [] if last is None else [f"its certificate lasts until {last:%Y-%m-%d}"]
    if last is not None and last < now + SOON:
        remedy = "at the coordinator: `undertone coordinator rotate certificate`, or renew your own; start nginx anew"
        return warned(name, f"the certificate of {whose} expires within a month", remedy, details)
    return passed(name, f"{whose} is reached, and its certificate is by the pinned CA", details)


def closed(name: str, whose: str, seen: Seen) -> Verdict:
    """What starts and stops runs is not reached through the fleet address."""
    if seen.fault:
        return _not_asked(name, whose)
    found = {path: status for path, status in seen.statuses.items() if path in CLOSED}
    details = [f"{path}: HTTP {status}" for path, status in found.items()]
    if any(status not in (_NOT_FOUND, 0) for status in found.values()):
        return failed(
            name,
            f"the SuperLink of {whose} is open to the network: its control or runtime API is reached through the fleet "
            "address",
            "at the coordinator: pass on /v1/fleet/ alone, as COORDINATOR_DIR/nginx/undertone.conf does; close the "
            "address until then",
            details,
        )
    if len(found) < len(CLOSED) or 0 in found.values():
        sentence = f"the connection to {whose} broke before all was asked"
        return warned(name, sentence, "check again; see the log of its nginx", details)
    return passed(name, f"of the SuperLink of {whose} the fleet API alone is reached", details)


def body(name: str, whose: str, seen: Seen) -> Verdict:
    """Pieces of 5 MB get through to the SuperLink."""
    if seen.fault:
        return _not_asked(name, whose)
    status = seen.statuses.get(FLEET, 0)
    details = [f"a piece of 5 MB was answered with HTTP {status}" if status else "the connection broke within 5 MB"]
    if status in (_TOO_LARGE, 0):
        sentence = f"nginx of {whose}, or a proxy on the way, refuses Flower's pieces of 5 MB"
        return failed(name, sentence, "at the coordinator: client_max_body_size 16m; at a proxy the same", details)
    if status in _CANNOT:
        sentence = f"nginx of {whose} cannot keep bodies of 5 MB while they arrive"
        remedy = "at the coordinator: its workers' account must be able to write client_body_temp_path; see its log"
        return failed(name, sentence, remedy, details)
    if status not in _REFUSED or status == _NOT_FOUND:
        sentence = f"behind the fleet address of {whose} no SuperLink answers"
        return failed(name, sentence, "at the coordinator: start the SuperLink, and see proxy_pass of nginx", details)
    return passed(name, f"pieces of 5 MB get through to the SuperLink of {whose}", details)


def clocks(name: str, whose: str, seen: Seen) -> Verdict:
    """This machine's clock against the server's."""
    low, high = seen.ahead
    details = [f"this clock is ahead by {low:.1f} s to {high:.1f} s"]
    if high - low > _SURE:
        sentence = f"the clock of {whose} is not known: its server gave no time, or answers too slowly"
        return warned(name, sentence, "compare both clocks by hand", details)
    if low > _AHEAD or high < -_BEHIND:
        way = "ahead of" if low > 0 else "behind"
        return failed(name, f"the clock is too far {way} that of {whose}: Flower refuses this", _SET_CLOCK, details)
    if low > _OFF or high < -_OFF:
        return warned(name, f"the clock differs from that of {whose} by some seconds", _SET_CLOCK, details)
    return passed(name, f"the clock agrees with that of {whose}", details)


def _not_asked(name: str, whose: str) -> Verdict:
    remedy = "first mend what the check before says"
    return warned(name, f"{whose} could not be asked, because its server was not reached", remedy)
