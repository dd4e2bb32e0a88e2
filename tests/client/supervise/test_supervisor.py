"""A site's processes: in order, again when one ends, none left; and a coordinator that takes no SuperNode is named."""

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.deployed import wait_until
from undertone.errors import InputError, NotConnected
from undertone_client.supervise import child as children
from undertone_client.supervise.child import Child
from undertone_client.supervise.node_child import NodeChild
from undertone_client.supervise.supernode import SuperNodeChild
from undertone_client.supervise.supervisor import Pair, supervise

STAYS = "import time; print('here', flush=True); time.sleep(600)"
ENDS = "raise SystemExit(3)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
CONNECTS = "import time; print('INFO : SuperNode ID: 17', flush=True); time.sleep(600)"
NOT_TAKEN = "print('Exit Code: 305\\nFailed to initialize the connection'); raise SystemExit(1)"
BAD_KEY = "print('Exit Code: 302'); raise SystemExit(1)"


def words(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", script]


def noting(path: Path, script: str) -> list[str]:
    """The script, behind a line with its process id in a file."""
    return words(f"import os; open({str(path)!r}, 'a').write(f'{{os.getpid()}}\\n'); {script}")


def pids(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "undertone.start"):
        yield caplog


class Site:
    """A site of scripts, whose processes write their ids into files."""

    def __init__(self, folder: Path, node: str = STAYS, supernode: str = CONNECTS, relay: str = STAYS) -> None:
        self.files = {name: folder / name for name in ("node", "supernode", "relay")}
        self.node = Child("node", noting(self.files["node"], node))
        self.pair = Pair(
            SuperNodeChild("hub/supernode", noting(self.files["supernode"], supernode)),
            Child("hub/relay", noting(self.files["relay"], relay)),
        )

    @contextmanager
    def supervised(self, serves: Callable[[], bool]) -> Iterator[None]:
        stop = threading.Event()
        thread = threading.Thread(target=supervise, args=(self.node, [self.pair], serves, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=60)
            assert not thread.is_alive()
        assert not any(psutil.pid_exists(pid) for file in self.files.values() for pid in pids(file))


def test_the_node_comes_first_and_what_ends_comes_again(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    site, answers = Site(tmp_path), threading.Event()
    with site.supervised(answers.is_set):
        wait_until(lambda: pids(site.files["node"]), "no node")
        time.sleep(0.5)
        assert not pids(site.files["relay"]) + pids(site.files["supernode"])
        answers.set()
        wait_until(lambda: pids(site.files["relay"]) and pids(site.files["supernode"]), "no relay")
        (first,) = pids(site.files["relay"])
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: len(pids(site.files["relay"])) == 2, "no second relay", 20)
    assert "hub/relay ended (killed by signal 9); it starts again in 2 s" in log.text
    assert len(pids(site.files["node"])) == len(pids(site.files["supernode"])) == 1


def test_a_node_answers_once_it_says_so_and_after_each_start_anew(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"""import pathlib, time
while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)
print("north answers at /somewhere", flush=True); time.sleep(60)"""
    node = NodeChild("node", words(script))
    try:
        for _ in range(2):
            node.start(time.monotonic())
            time.sleep(0.2)
            assert not node.answers
            go.touch()
            wait_until(lambda: node.answers, "it did not answer", 20)
            go.unlink()
            node.end()
    finally:
        node.end()


def test_the_supervisor_holds_no_grpc_channel_when_it_forks() -> None:
    """A node that was forked beside one once died before it began: "epoll_wait error: Bad file descriptor"."""
    script = "import sys, undertone_cli.commands.node_start; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_node_that_never_answers_ends_all_by_name(tmp_path: Path) -> None:
    site = Site(tmp_path, node=ENDS)
    with pytest.raises(InputError, match="node ended before it answered: its lines above say why"):
        supervise(site.node, [site.pair], lambda: False, threading.Event())
    assert not pids(site.files["relay"])


def test_one_that_does_not_end_is_killed(
    tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "_END_SECONDS", 0.5)
    site = Site(tmp_path, relay=STUBBORN)
    with site.supervised(lambda: True):
        wait_until(lambda: "hub/relay | here" in log.text, "no relay")
    assert "hub/relay does not end and is killed" in log.text


def test_lines_bear_the_name_of_who_said_them_and_cannot_move_the_cursor(log: pytest.LogCaptureFixture) -> None:
    said = Child("hub/supernode", words(r"print('\x1b[92mINFO\x1b[0m: one\r\nbell \x07 two\x1b[2J')"))
    said.start(0.0)
    wait_until(lambda: not said.running, "it runs")
    said.tend(1.0)
    lines = [record.message for record in log.records]
    assert lines[:2] == ["hub/supernode | INFO: one", "hub/supernode | bell \\x07 two\\x1b[2J"]


def tended(child: Child, until: float) -> list[float]:
    """When its process was started, on a clock that goes by seconds."""
    starts: list[float] = []
    start = child.start

    def noted(now: float) -> None:
        starts.append(now)
        start(now)

    child.start = noted  # type: ignore[method-assign]
    now = 0.0
    while now <= until:
        child.tend(now)
        wait_until(lambda: not child.running, "it runs")
        now += 1.0
    return starts


def test_a_process_that_ends_at_once_is_started_less_and_less_often() -> None:
    starts = tended(Child("relay", words(ENDS)), 130)
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == [3, 5, 9, 17, 31, 31, 31]


def test_a_supernode_that_is_not_taken_is_asked_for_90_seconds_and_both_causes_are_named() -> None:
    child = SuperNodeChild("hub/supernode", words(NOT_TAKEN))
    starts = tended(child, 300)
    assert [later - earlier for earlier, later in itertools.pairwise(starts)] == [11] * 9  # a second until it is seen
    assert starts[-2] < 90 <= starts[-1]
    assert "has not taken the SuperNode of hub/supernode for 90 s (Flower's code 305)" in child.given_up
    assert "another SuperNode with this site's key is connected" in child.given_up
    assert "the key is not registered there, or was revoked" in child.given_up


def test_a_supernode_with_another_fault_is_not_said_to_be_refused() -> None:
    child = SuperNodeChild("hub/supernode", words(BAD_KEY))
    tended(child, 120)
    assert child.given_up == "the SuperNode of hub/supernode has not come up for 90 s; its lines above say why"


def test_a_supernode_that_was_connected_has_its_90_seconds_anew() -> None:
    child = SuperNodeChild("hub/supernode", words("print('Exit Code: 305')"))
    tended(child, 80)
    assert not child.given_up
    child._words = words("print('INFO: SuperNode ID: 3', flush=True)")
    tended(child, 200)
    assert not child.given_up


def test_a_coordinator_that_is_given_up_ends_all_only_if_it_is_the_last(
    tmp_path: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undertone_client.supervise.supernode.PATIENCE_SECONDS", 0.0)
    refused, taken = Site(tmp_path, supernode=NOT_TAKEN), Site(tmp_path)
    other = Pair(SuperNodeChild("second/supernode", words(CONNECTS)), Child("second/relay", words(STAYS)))
    stop = threading.Event()
    thread = threading.Thread(target=supervise, args=(refused.node, [refused.pair, other], lambda: True, stop))
    thread.start()
    try:
        wait_until(lambda: "Flower's code 305" in log.text, "nothing is said")
        time.sleep(0.6)
        assert thread.is_alive()
        assert log.text.count("Flower's code 305") == 1
    finally:
        stop.set()
        thread.join(timeout=60)
    with pytest.raises(NotConnected, match="Flower's code 305"):
        supervise(taken.node, [refused.pair], lambda: True, threading.Event())


def test_kill_9_of_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    """On Linux: elsewhere the system tells no process that its parent has died."""
    noted = tmp_path / "pids"
    script = (
        "import threading; from undertone_client.supervise.child import Child; "
        "from undertone_client.supervise.supervisor import supervise; "
        f"supervise(Child('node', {noting(noted, STAYS)!r}), [], lambda: True, threading.Event())"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait_until(lambda: pids(noted), "no node")
        supervisor.kill()
        if sys.platform == "linux":
            wait_until(lambda: not psutil.pid_exists(pids(noted)[0]), "the node is left", 10)
    finally:
        supervisor.kill()
        supervisor.wait()
        for pid in filter(psutil.pid_exists, pids(noted)):
            os.kill(pid, signal.SIGKILL)
