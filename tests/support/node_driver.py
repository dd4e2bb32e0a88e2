"""Node processes that die: imports once, without torch, then forks a real `run_node` for each that it is asked for.

A line of standard input is a command as JSON: `{"site_dir", "failpoint", "count"}` starts a node and is answered by its
process id, `{"wait": id}` and `{"kill": id}` by how it ended.
"""

import json
import os
import signal
import sys
import threading
import types
from pathlib import Path

from tests.support.dummy import DummyBase, DummyMethod

_base = types.ModuleType("undertone.models.base")
_base.__dict__.update(LoadedBase=DummyBase, load_base=lambda *_, **__: DummyBase())
sys.modules[_base.__name__] = _base

from tests.support.failpoints import Trace, kill_this_process  # noqa: E402
from undertone.core import failpoints  # noqa: E402
from undertone.methods.registry import METHODS  # noqa: E402
from undertone.models import devices  # noqa: E402
from undertone_client.service.running import run_node  # noqa: E402


def start(site_dir: Path, failpoint: str, count: int) -> int:
    """A node's process, which dies at a failpoint if one is named."""
    child = os.fork()
    if child == 0:
        quiet = os.open(site_dir / "process.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        if failpoint:
            failpoints._handlers.append(Trace(failpoint, count, kill_this_process))
        run_node(site_dir, None, lambda _site, _socket: None, threading.Event())
        os._exit(1)
    return child


def ended(process: int) -> int:
    """Exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    """Until standard input ends."""
    METHODS[DummyMethod.name] = DummyMethod
    devices.present = lambda: (devices.CPU,)
    for line in sys.stdin:
        command = json.loads(line)
        if "kill" in command:
            os.kill(command["kill"], signal.SIGKILL)
            answer = ended(command["kill"])
        elif "wait" in command:
            answer = ended(command["wait"])
        else:
            answer = start(Path(command["site_dir"]), command["failpoint"], command["count"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
