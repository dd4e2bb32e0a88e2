"""Stands where a coordinator's nginx stands: a TLS server of loopback that answers as it is told to."""

import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from undertone.core.clock import utc_now
from undertone.preflight.fleet import FLEET
from undertone_server.home.certificates import Pair, make_ca, make_certificate


@dataclass
class Told:
    """How the server answers.

    Attributes:
        ahead: by how many seconds its clock is ahead.
        largest: body in bytes; more is 413.
        statuses: of paths; all others are 404. 0: the connection ends without an answer.
        drips: seconds before each byte of an answer, of which there is no end.
        date: what it says of the time, where it is not its clock's.
        asked: paths, in order.
        stopped: set when it is over.
    """

    ahead: float = 0.0
    largest: int = 16 << 20
    statuses: dict[str, int] = field(default_factory=lambda: {FLEET: 401})
    date: str | None = None
    drips: float = 0.0
    asked: list[str] = field(default_factory=list)
    stopped: bool = False


@contextmanager
def fake_fleet(folder: Path, pair: Pair, port: int = 0, told: Told | None = None) -> Iterator[int]:
    """Within, the server runs, with this certificate; its port."""
    how = told or Told()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            how.asked.append(self.path)
            length = int(self.headers["Content-Length"])
            while how.drips and not how.stopped:
                self.wfile.write(b"H")
                time.sleep(how.drips)
            if how.statuses.get(self.path) == 0 or how.drips:
                self.close_connection = True
                return
            large = length > how.largest
            if not large:
                self.rfile.read(length)
            self.close_connection = large
            self.send_response(413 if large else how.statuses.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            if large:  # as nginx: what is on its way is taken, so that the answer is read
                self.wfile.flush()
                self.rfile.read(length)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return how.date if how.date is not None else super().date_time_string(time.time() + how.ahead)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    (folder / "fleet.crt").write_bytes(pair.certificate_pem)
    (folder / "fleet.key").write_bytes(pair.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "fleet.crt", folder / "fleet.key")

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A handshake that was refused is what some tests want."""

    server = Server(("127.0.0.1", port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        how.stopped = True
        server.shutdown()
        thread.join()
        server.server_close()


def ca_of(folder: Path, now: datetime | None = None, days: int = 3650) -> Pair:
    """A CA, its certificate in ca.crt."""
    made = make_ca("test", days, now or utc_now())
    (folder / "ca.crt").write_bytes(made.certificate_pem)
    return made


def certificate(ca: Pair, days: float = 397, hosts: Sequence[str] = ("127.0.0.1", "localhost")) -> Pair:
    """A server's certificate that was made a year ago and has so many days left; negative: it has expired."""
    year = timedelta(days=365)
    return make_certificate(hosts, 365 + int(days), utc_now() - year, ca)
