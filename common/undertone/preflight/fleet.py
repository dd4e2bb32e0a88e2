"""The coordinator's server, asked as anybody on the network can ask it: what it answers, by which clock, by whose word.

Over TLS alone, by the CA that is pinned; nothing of a site is sent but zeros.
"""

import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import inf
from pathlib import Path
from threading import Thread

import httpx
from cryptography import x509

from undertone.core.clock import Clock, utc_now
from undertone.core.fleet_address import FleetAddress
from undertone.core.text import REASON, shown

# They start and stop runs, and hand out tasks: nginx passes on neither.
CLOSED = ("/v1/control/list-nodes", "/v1/runtime/acquire-task")
FLEET = "/v1/fleet/push-object"
# Flower sends objects in pieces of 5 MiB, and some bytes around each.
PIECE_BYTES = (5 << 20) + (64 << 10)
_HEADERS = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}
_LARGEST_ANSWER = 1 << 16
_TIMEOUT = httpx.Timeout(10.0, write=60.0, read=60.0)
_LONGEST_SECONDS = 150.0
# OpenSSL's, X509_V_ERR_*.
_EXPIRED, _NOT_YET = 10, 9
_OTHER_NAME = (62, 64)


@dataclass
class Seen:
    """What was seen of a server.

    Attributes:
        fault: why it was not reached: "unreachable", "too slow", "proxy", "no TLS", "expired", "not yet valid",
            "other name", "foreign"; empty where it was.
        said: the error's own words; may name hosts.
        certificate: which it showed, where it was reached.
        statuses: path -> HTTP status; 0: the connection broke.
        ahead: by how many seconds this machine's clock is ahead of the server's: at least, at most.
    """

    fault: str = ""
    said: str = ""
    certificate: x509.Certificate | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    ahead: tuple[float, float] = (-inf, inf)


def look(address: FleetAddress, ca: Path, clock: Clock = utc_now, *, on_this_machine: bool = False) -> Seen:
    """Ask a coordinator's server what is closed and what is open there; three requests, 5 MB all in all.

    Args:
        address: where sites reach it.
        ca: the certificate by which it is known.
        clock: this machine's.
        on_this_machine: ask on loopback, whatever the address's host leads to, and no proxy; else as Flower's SuperNode
            does, by the proxy that the environment names.

    Raises:
        OSError, ValueError: the CA's file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca)
    url, headers, extensions = address.url, dict(_HEADERS), {}
    if on_this_machine:
        url, headers["Host"] = f"https://127.0.0.1:{address.port}", address.authority
        extensions["sni_hostname"] = address.host
    client = httpx.Client(verify=context, timeout=_TIMEOUT, headers=headers, trust_env=not on_this_machine)
    answered: Future[Seen] = Future()

    def work() -> None:
        try:
            with client:
                answered.set_result(_questions(client, url, extensions, clock))
        except Exception as error:  # noqa: BLE001 - raised where it is waited for
            answered.set_exception(error)

    # A server may send byte after byte, each in time: whoever waits for it is not held for longer than this.
    Thread(target=work, daemon=True).start()
    try:
        return answered.result(_LONGEST_SECONDS)
    except TimeoutError:
        return Seen("too slow")


def _questions(client: httpx.Client, url: str, extensions: Mapping[str, str], clock: Clock) -> Seen:
    """Each question, until one shows that the server is not reached."""
    seen = Seen()
    for path in (*CLOSED, FLEET):
        request = client.build_request(
            "POST",
            url + path,
            content=bytes(PIECE_BYTES) if path == FLEET else b"",
            extensions={**extensions, "timeout": _TIMEOUT.as_dict()},
        )
        _ask(client, request, path, seen, clock)
        if seen.fault:
            break
    return seen


def _ask(client: httpx.Client, request: httpx.Request, path: str, seen: Seen, clock: Clock) -> None:
    """One question; what is seen is noted."""
    before = clock()
    try:
        response = client.send(request, stream=True)
    except httpx.TransportError as error:
        if seen.statuses:  # it was reached before
            seen.statuses[path] = 0
        else:
            seen.fault, seen.said = _fault(error), shown(str(error), REASON)
        return
    with _closing(response):
        after = clock()
        seen.statuses[path] = response.status_code
        seen.certificate = seen.certificate or _certificate(response.extensions)
        try:
            theirs = parsedate_to_datetime(response.headers.get("Date", ""))
        except (OverflowError, TypeError, ValueError):
            return
        theirs = theirs.replace(tzinfo=theirs.tzinfo or UTC)
        # The server wrote whole seconds, at some time between the two.
        low, high = (before - theirs).total_seconds() - 1, (after - theirs).total_seconds()
        seen.ahead = max(seen.ahead[0], low), min(seen.ahead[1], high)


@contextmanager
def _closing(response: httpx.Response) -> Iterator[None]:
    """Within, the answer's head is there; of its body so much is read that the connection may serve again."""
    try:
        yield
        read = 0
        for piece in response.iter_raw():
            read += len(piece)
            if read > _LARGEST_ANSWER:
                break
    except httpx.TransportError:
        return  # the head is all that was wanted
    finally:
        response.close()


def _certificate(extensions: Mapping[str, object]) -> x509.Certificate | None:
    stream = extensions.get("network_stream")
    found = getattr(stream, "get_extra_info", lambda _name: None)("ssl_object")
    data = None if found is None else found.getpeercert(True)
    return None if data is None else x509.load_der_x509_certificate(data)


def _fault(error: BaseException) -> str:
    """Which of `Seen.fault` an error is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause.verify_code)
        if isinstance(cause, ssl.SSLError):
            return "no TLS"
        cause = cause.__cause__ or cause.__context__
    return "proxy" if isinstance(error, httpx.ProxyError) else "unreachable"


def _of_certificate(code: int) -> str:
    if code == _EXPIRED:
        return "expired"
    if code == _NOT_YET:
        return "not yet valid"
    return "other name" if code in _OTHER_NAME else "foreign"
