"""Submit, status, stop and resume over a real SuperLink: no site is there, so the study waits and says for whom."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.federating import Hub, hub
from tests.support.runs import SITES, call, spawn
from tests.support.studies import study_with, write_study
from undertone_cli.processes import free_ports
from undertone_server.run_folder import RunFolder

_SECONDS = 240.0


@contextmanager
def superlink(made: Hub) -> Iterator[None]:
    """`undertone coordinator start` until the context is left."""
    process = spawn("coordinator", "start", "--home", made.home.folder)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready"):
                break
        else:
            assert process.stderr is not None
            raise AssertionError(process.stderr.read())
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def until(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + _SECONDS
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(1.0)
    return found


@pytest.mark.slow
def test_a_study_waits_on_a_real_superlink_is_stopped_and_goes_on(tmp_path: Path) -> None:
    superlink_port, health_port = free_ports(2)
    made = hub(tmp_path / "hub", superlink_port=superlink_port, health_port=health_port)
    made.add(*SITES)
    changes = {"method": {"name": "dpagg-ti", "steps": 1}, "cohort.units": dict.fromkeys(SITES, 10)}
    study = write_study(tmp_path / "study.toml", study_with(changes, "embedded:tiny"))

    def said(*words: object) -> Any:
        result = call("coordinator", *words, "--home", made.home.folder, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def state(name: str) -> Any:
        return said("status", name)["studies"][0]

    with superlink(made):
        name = said("submit", study)["name"]
        run = RunFolder(made.home.runs / name)
        waiting = until(lambda: (now := state(name))["state"] == "waiting" and now)
        assert waiting["because"].startswith("waiting for east, north, south: 0 of 3 sites are here")
        assert waiting["missing"] == dict.fromkeys(SITES, "did not answer")
        assert run.held()
        said("stop", name)
        until(lambda: not run.held())
        assert state(name)["state"] == "interrupted"
        said("resume", name)
        until(run.held)
        until(lambda: state(name)["state"] == "waiting")
        assert len(state(name)["flower_runs"]) == 2
        said("stop", name)
        until(lambda: not run.held())
    refused = call("coordinator", "resume", name, "--home", made.home.folder)
    assert refused.exit_code != 0
    assert "flwr run failed" in refused.output
