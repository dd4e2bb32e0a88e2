"""A federation as processes, each part of which a test can find and kill; and proof that none is left."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import ECONNREFUSED
from pathlib import Path
from socket import socket
from typing import Literal

import psutil
import pytest

from tests.support.images import write_folder
from tests.support.superlink import eventually
from undertone.errors import FolderError
from undertone.models.pinned import files_digest, pin
from undertone.privacy.ledger import Ledger
from undertone_cli.commands.demo_deployment import BASE, DELTA
from undertone_cli.loopback.federation import LoopbackFederation
from undertone_cli.loopback.hospitals import Hospital
from undertone_cli.loopback.processes import Processes
from undertone_server.home.folder import Home
from undertone_server.run_folder import RunFolder
from undertone_server.status import Status, read_status

Part = Literal["node serve", "node relay", "flower-supernode", "flower-superlink", "nginx: master", "flwr-serverapp"]
"""As its command line has it. The last three belong to the coordinator."""
UNITS = 10
_MARK = "UNDERTONE_TEST_FAMILY"


@contextmanager
def none_left() -> Iterator[None]:
    """Whatever starts within, and whatever that starts, has ended when the context does; else it is ended, and named.

    Children inherit a mark, so one whose parent died is found too.
    """
    mark = secrets.token_hex(8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_MARK, mark)
        try:
            yield
        finally:
            family = [one for one in psutil.process_iter() if one.pid != os.getpid() and _has(one, mark)]
            _, left = psutil.wait_procs(family, timeout=10)
            said = [" ".join(_words(one)) for one in left]
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
    assert not said


def silent(home: Path) -> None:
    """Raise AssertionError if somebody listens where a coordinator did: nginx's processes wear no mark."""
    settings = Home.open(home).settings
    for port in (settings.address.port, settings.superlink_port, settings.health_port):
        with socket() as tried:
            assert tried.connect_ex(("127.0.0.1", port)) == ECONNREFUSED


def _has(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error):
        return process.environ().get(_MARK) == mark
    return False


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


class Killable(LoopbackFederation):
    """Sites and coordinator, whose parts can be found."""

    def __init__(self, folder: Path, names: tuple[str, ...], processes: Processes) -> None:
        hospitals = []
        for number, name in enumerate(names):
            write_folder(folder / "images" / name, UNITS, first=UNITS * number, per_patient=1)
            hospitals.append(Hospital(name, folder / "images" / name, UNITS))
        super().__init__(folder, hospitals, processes)

    def begin(self, method: str, epsilon: float) -> None:
        """From nothing to sites that are connected."""
        self.provision()
        self.add_data("record", epsilon, DELTA)
        self.allow(
            methods=[method],
            models=[files_digest(dict(pin(BASE, None).files))],
            noise=["central"],
            largest_sampling_rate=1.0,
            largest_rounds=100,
            fewest_sites=3,
            fewest_patients=0,
            fewest_honest_shares=2,
            longest_approval_days=30,
        )
        self.start()

    def found(self, owner: str, part: Part) -> psutil.Process | None:
        """The process of a site, or of the coordinator, that runs now."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.processes.pid(owner)).children(recursive=True)
            found = [one for one in family if part in " ".join(_words(one)) and one.status() != psutil.STATUS_ZOMBIE]
            return found[0] if found else None
        return None

    def kill(self, owner: str, part: Part) -> psutil.Process:
        """Kill -9; the process that is gone."""
        process = self.found(owner, part)
        assert process is not None, f"{owner} has no {part}"
        process.kill()
        assert eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 10)
        return process

    def back(self, owner: str, part: Part, gone: psutil.Process, seconds: float) -> float:
        """Seconds until another process is in the place of one that was killed."""
        began = time.monotonic()
        assert eventually(lambda: self.found(owner, part) not in (None, gone), seconds), f"no new {part}"
        return time.monotonic() - began

    def says_again(self, owner: str, text: str, before: int, seconds: float) -> float:
        """Seconds until a log has a text once more than `before`."""
        began = time.monotonic()
        assert eventually(lambda: self.processes.log(owner).count(text) > before, seconds), (
            f"{owner} did not say {text!r} again:\n" + self.processes.log(owner)[-3000:]
        )
        return time.monotonic() - began


class Watched:
    """A study's RUN while another process runs it, and its books."""

    def __init__(self, federation: Killable, run: Path) -> None:
        self.federation, self.run = federation, RunFolder(run)
        self.plan = self.run.plan()

    def status(self) -> Status | None:
        with suppress(FolderError):
            return read_status(self.run)
        return None

    def waits_for(self, site: str, because: str, seconds: float) -> None:
        """Wait until the study says for which site it waits, and why."""

        def said() -> bool:
            now = self.status()
            return now is not None and now.state == "waiting" and now.missing.get(site, "").startswith(because)

        assert eventually(said, seconds), self.status()

    def reached(self, pattern: str, seconds: float = 240.0) -> None:
        """Wait until checkpoints hold such a file."""
        assert eventually(lambda: any(self.run.checkpoints.glob(pattern)), seconds), (pattern, self.status())

    def asked(self) -> set[tuple[int, int]]:
        """(round, attempt) of each attempt for which RUN has a mark."""
        marks = self.run.checkpoints.glob("round-*/asked-*.mark")
        return {(int(mark.parent.name.split("-")[1]), int(mark.stem.split("-")[1])) for mark in marks}

    def charges(self, site: str | None = None) -> list[tuple[int, int]]:
        """(round, attempt) of each charge at a site, or at the coordinator."""
        path = self.run.ledger if site is None else self.federation.sites[site] / "ledger.sqlite"
        with Ledger.open(path, read_only=True) as ledger:
            return [(one.round, one.attempt) for one in ledger.charges(self.plan.digest)]

    def entries(self, kind: str) -> list[tuple[int, int]]:
        """(round, attempt) of each entry of a kind in the coordinator's ledger."""
        with Ledger.open(self.run.ledger, read_only=True) as ledger:
            return [(one.body["round"], one.body["attempt"]) for one in ledger.entries() if one.kind == kind]  # type: ignore[misc]

    def audit(self) -> None:
        """Each attempt counts once in all books, and each round was opened once."""
        asked, opened, void = self.asked(), self.charges(), self.entries("void")
        assert [round_ for round_, _ in opened] == list(range(1, self.plan.privacy.rounds + 1))
        assert self.entries("opened") == opened
        assert len(void) == len(set(void))
        assert sorted([*opened, *void]) == sorted(asked)
        assert self.federation.status(self.run.folder)["attempts_used"] == len(asked) <= self.plan.privacy.max_attempts
        for site in self.federation.sites:
            charged = self.charges(site)
            assert len(charged) == len(set(charged))
            assert set(opened) <= set(charged) <= asked, site
