"""A coordinator's server as anybody sees it, and what is made of it: real TLS on loopback."""

from datetime import timedelta
from pathlib import Path
from socket import socket
from threading import Thread

import pytest

from tests.support.fleet import Told, ca_of, certificate, fake_fleet
from undertone.core.clock import utc_now
from undertone.core.fleet_address import FleetAddress
from undertone.preflight import fleet
from undertone.preflight.fleet import CLOSED, FLEET, PIECE_BYTES, Seen, look
from undertone.preflight.fleet_checks import body, clocks, closed, server
from undertone.preflight.verdict import Verdict
from undertone_server.home.certificates import Pair


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def ca(tmp_path: Path) -> Pair:
    return ca_of(tmp_path, utc_now() - timedelta(days=400))


def seen_of(folder: Path, pair: Pair, told: Told | None = None, host: str = "127.0.0.1") -> Seen:
    with fake_fleet(folder, pair, told=told) as port:
        return look(FleetAddress(host, port), folder / "ca.crt")


def says(verdict: Verdict, status: str, words: str = "") -> None:
    assert (verdict.status, words in verdict.sentence) == (status, True), verdict
    assert verdict.status == "PASS" or verdict.remedy
    assert all("127.0.0.1" not in text and "hub.example" not in text for text in (verdict.sentence, verdict.remedy))


def test_a_good_server(tmp_path: Path, ca: Pair) -> None:
    told = Told()
    seen = seen_of(tmp_path, certificate(ca), told)
    assert told.asked == [*CLOSED, FLEET]
    assert seen.statuses == {**dict.fromkeys(CLOSED, 404), FLEET: 401}
    says(server("coordinator", "hub", seen, utc_now()), "PASS", "is reached")
    says(closed("control API", "hub", seen), "PASS")
    says(body("large messages", "hub", seen), "PASS")
    says(clocks("clock", "hub", seen), "PASS")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_on_this_machine_the_address_is_proved_and_not_looked_up(tmp_path: Path, ca: Pair, host: str) -> None:
    pair = certificate(ca, hosts=["hub.example.org"])
    with fake_fleet(tmp_path, pair) as port:
        address = FleetAddress("hub.example.org", port)
        assert look(address, tmp_path / "ca.crt", on_this_machine=True).fault == ""
        assert look(FleetAddress(host, port), tmp_path / "ca.crt", on_this_machine=True).fault == "other name"


# --- certificates ----------------------------------------------------------------------------------------------


def test_an_expired_certificate(tmp_path: Path, ca: Pair) -> None:
    says(server("c", "hub", seen_of(tmp_path, certificate(ca, days=-1)), utc_now()), "FAIL", "has expired")


@pytest.mark.parametrize(("days", "status"), [(29, "WARN"), (31, "PASS")])
def test_one_that_expires_soon(tmp_path: Path, ca: Pair, days: int, status: str) -> None:
    says(server("c", "hub", seen_of(tmp_path, certificate(ca, days=days)), utc_now()), status)


def test_a_certificate_of_another_ca(tmp_path: Path, ca: Pair) -> None:
    (tmp_path / "other").mkdir()
    foreign = certificate(ca_of(tmp_path / "other", utc_now() - timedelta(days=400)))
    says(server("c", "hub", seen_of(tmp_path, foreign), utc_now()), "FAIL", "not by the CA that was pinned")
    says(server("c", "hub", seen_of(tmp_path, certificate(ca)), utc_now()), "PASS")


def test_a_certificate_of_another_host(tmp_path: Path, ca: Pair) -> None:
    seen = seen_of(tmp_path, certificate(ca, hosts=["hub.example.org"]))
    says(server("c", "hub", seen, utc_now()), "FAIL", "for another host")


def test_one_that_is_not_valid_yet(tmp_path: Path, ca: Pair) -> None:
    from undertone_server.home.certificates import make_certificate

    pair = make_certificate(["127.0.0.1"], 10, utc_now() + timedelta(days=1), ca)
    says(server("c", "hub", seen_of(tmp_path, pair), utc_now()), "FAIL", "not valid yet")


def test_nobody_there_and_no_tls(tmp_path: Path, ca: Pair) -> None:
    del ca
    with socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = FleetAddress("127.0.0.1", bound.getsockname()[1])
        seen = look(address, tmp_path / "ca.crt")
        says(server("c", "hub", seen, utc_now()), "FAIL", "is not reached")
        assert seen.said
        for verdict in (closed("a", "hub", seen), body("b", "hub", seen)):
            says(verdict, "WARN", "could not be asked")
        bound.listen()

        def answer() -> None:
            with bound.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = Thread(target=answer)
        thread.start()
        says(server("c", "hub", look(address, tmp_path / "ca.crt"), utc_now()), "FAIL", "does not speak TLS")
        thread.join()


def test_a_proxy_that_does_not_let_out(tmp_path: Path, ca: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_fleet(tmp_path, certificate(ca)) as port, socket() as bound:
        address = FleetAddress("127.0.0.1", port)
        bound.bind(("127.0.0.1", 0))
        bound.listen()

        def refuse() -> None:
            with bound.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = Thread(target=refuse)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{bound.getsockname()[1]}")
        for name in ("NO_PROXY", "no_proxy"):  # a relay in this process has set both
            monkeypatch.setenv(name, "")
        says(server("c", "hub", look(address, tmp_path / "ca.crt"), utc_now()), "FAIL", "the proxy does not let")
        thread.join()
        assert look(address, tmp_path / "ca.crt", on_this_machine=True).fault == ""


# --- what it lets through ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("status", [200, 401, 502])
def test_a_control_api_that_is_open(tmp_path: Path, ca: Pair, path: str, status: int) -> None:
    seen = seen_of(tmp_path, certificate(ca), Told(statuses={FLEET: 401, path: status}))
    says(closed("control API", "hub", seen), "FAIL", "open to the network")


@pytest.mark.parametrize(("largest", "status"), [(1 << 20, "FAIL"), (PIECE_BYTES - 1, "FAIL"), (PIECE_BYTES, "PASS")])
def test_a_limit_of_a_body(tmp_path: Path, ca: Pair, largest: int, status: str) -> None:
    says(body("large messages", "hub", seen_of(tmp_path, certificate(ca), Told(largest=largest))), status)


@pytest.mark.parametrize("status", [200, 302, 404, 502, 504])
def test_no_superlink_behind(tmp_path: Path, ca: Pair, status: int) -> None:
    seen = seen_of(tmp_path, certificate(ca), Told(statuses={FLEET: status}))
    says(body("large messages", "hub", seen), "FAIL", "no SuperLink answers")


@pytest.mark.parametrize("status", [500, 507])
def test_a_server_that_cannot_keep_a_body(tmp_path: Path, ca: Pair, status: int) -> None:
    seen = seen_of(tmp_path, certificate(ca), Told(statuses={FLEET: status}))
    says(body("large messages", "hub", seen), "FAIL", "cannot keep bodies of 5 MB")


@pytest.mark.parametrize("path", [CLOSED[1], FLEET])
def test_a_connection_that_breaks(tmp_path: Path, ca: Pair, path: str) -> None:
    seen = seen_of(tmp_path, certificate(ca), Told(statuses={FLEET: 401, path: 0}))
    assert (seen.fault, seen.statuses[path]) == ("", 0)
    if path == FLEET:
        says(body("large messages", "hub", seen), "FAIL", "refuses Flower's pieces")
    else:
        says(closed("control API", "hub", seen), "WARN", "broke before all was asked")


def test_a_server_that_answers_for_ever(tmp_path: Path, ca: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_LONGEST_SECONDS", 1.0)
    seen = seen_of(tmp_path, certificate(ca), Told(drips=0.05))
    says(server("c", "hub", seen, utc_now()), "FAIL", "takes minutes")


# --- clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "status", "words"),
    [
        (0, "PASS", "agrees"),
        (-6, "FAIL", "ahead of"),  # the server is 6 s behind: this clock is ahead
        (-5, "FAIL", "ahead of"),
        (6, "WARN", "some seconds"),
        (200, "WARN", "some seconds"),
        (305, "FAIL", "behind"),
    ],
)
def test_clocks_that_differ(tmp_path: Path, ca: Pair, ahead: float, status: str, words: str) -> None:
    says(clocks("clock", "hub", seen_of(tmp_path, certificate(ca), Told(ahead=ahead))), status, words)


def test_the_clock_that_is_asked_is_the_one_that_is_given(tmp_path: Path, ca: Pair) -> None:
    with fake_fleet(tmp_path, certificate(ca)) as port:
        seen = look(FleetAddress("127.0.0.1", port), tmp_path / "ca.crt", lambda: utc_now() + timedelta(seconds=6))
    says(clocks("clock", "hub", seen), "FAIL", "ahead of")
    assert seen.ahead[1] - seen.ahead[0] < 2


@pytest.mark.parametrize("date", ["", "tomorrow", "Sun, 99 Nov 2026 18:00:00 GMT"])
def test_a_server_that_does_not_say_its_time(tmp_path: Path, ca: Pair, date: str) -> None:
    says(clocks("clock", "hub", seen_of(tmp_path, certificate(ca), Told(date=date))), "WARN", "is not known")
