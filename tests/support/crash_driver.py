"""Studies in processes that die: imports once, then forks a real process for each run that it is asked for.

No torch here: its modules are stood in for before anything imports them. Each line of standard input is a
`Run` as JSON, each line of standard output how that process ended: its exit code, or minus the signal.
What must hold while a process lives and cannot be seen afterwards is written to WORLD/witness.jsonl at once:
when noise was drawn, and when a vector left a node.
"""

import hashlib
import json
import os
import resource
import signal
import sqlite3
import sys
import time
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.support.dummy import DIMENSION, SIZE, DummyBase, DummyMethod


class DrawingBase(DummyBase):
    """A dummy base that draws: grey squares, lighter ones once weights are in it."""

    adapted = False

    def sample(self, prompts: list[str], seeds: list[int], **_: Any) -> list[Image.Image]:
        shades = [seed + 100 * self.adapted for seed, _prompt in zip(seeds, prompts, strict=True)]
        return [Image.new("RGB", (SIZE, SIZE), (shade,) * 3) for shade in shades]


def stand_in_for_torch() -> None:
    """Modules that import torch, as far as a coordinator and a node with a dummy base use them."""
    base = types.ModuleType("undertone.models.base")
    base.__dict__.update(LoadedBase=DrawingBase, load_base=lambda *_, **__: DrawingBase())
    sys.modules[base.__name__] = base


if __name__ == "__main__":
    stand_in_for_torch()

from flwr.app import Context, Message  # noqa: E402
from flwr.common.constant import SUPERLINK_NODE_ID  # noqa: E402
from flwr.common.serde import message_from_proto, message_to_proto  # noqa: E402
from flwr.proto.message_pb2 import Message as MessageProto  # noqa: E402

import undertone_client.app  # noqa: E402
from tests.support.crashes import (  # noqa: E402
    BAD_INPUT,
    DONE,
    REFUSED,
    TRACEBACK,
    Run,
    coordinator_stream,
    node_stream,
)
from tests.support.entropy import KeyedEntropy, WatchedEntropy  # noqa: E402
from tests.support.failpoints import Trace, kill_this_process, obey_environment  # noqa: E402
from tests.support.world import build_world, identify  # noqa: E402
from undertone.core import failpoints  # noqa: E402
from undertone.errors import Refused, UndertoneError  # noqa: E402
from undertone.methods.registry import METHODS  # noqa: E402
from undertone.models import devices  # noqa: E402
from undertone.privacy import ledger_file  # noqa: E402
from undertone.privacy.entropy import Entropy, OsEntropy  # noqa: E402
from undertone_cli.engines.inprocess import InProcessGrid  # noqa: E402
from undertone_client.node import Node  # noqa: E402
from undertone_client.site import attempt_store  # noqa: E402
from undertone_server import run_study, telemetry  # noqa: E402


@dataclass(frozen=True)
class Witness:
    """Writes down what happens, at once, outside RUN; a line that was written survives SIGKILL."""

    world: Path

    def write(self, kind: str, **facts: object) -> None:
        line = json.dumps({"kind": kind, "process": os.getpid(), **facts}).encode() + b"\n"
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))  # a limit is set for what is being tested
        descriptor = os.open(self.world / "witness.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line)
        os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def newest_attempt(self) -> tuple[int, int]:
        """(round, attempt) that sites were last asked for, from the marks on disk."""
        marks = (self.world / "run" / "checkpoints").glob("round-*/asked-*.mark")
        asked = [(int(mark.parent.name.split("-")[1]), int(mark.stem.split("-")[1])) for mark in marks]
        return max(asked, default=(0, 0))

    def drawn(self, module: str) -> None:
        """Bits were drawn: if for noise, was it paid for, and is there a V already?"""
        if module == "undertone.privacy.noise":
            round_, attempt = self.newest_attempt()
            there = list((self.world / "run" / "checkpoints" / f"round-{round_:06d}").glob("noised-*.npy"))
            paid = is_charged(self.world / "run" / "ledger.sqlite", round_, attempt)
            self.write("noise", round=round_, attempt=attempt, charged=paid, noised_before=bool(there))


def is_charged(ledger: Path, round_: int, attempt: int) -> bool:
    """Whether a charge is committed, read past the package."""
    with sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True) as database:
        query = "SELECT COUNT(*) FROM entries WHERE round = ? AND attempt = ?"
        (count,) = database.execute(query, (round_, attempt)).fetchone()
    database.close()
    return bool(count)


class Relay:
    """Stands where the ClientApp stands: pins a node's coins, sees what leaves it, and may run it as a process."""

    def __init__(self, run: Run, witness: Witness) -> None:
        self._run, self._witness = run, witness

    def __call__(self, message: Message, context: Context) -> Message:
        folder = Path(str(context.node_config["site-dir"]))
        header = message.content.config_records["header"]
        round_, attempt = int(str(header["round"])), int(str(header["attempt"]))
        reply = self._forked(message, context, folder.name, round_) if self._run.site else self._app(message, context)
        for record in reply.content.array_records.values():
            for array in record.values():
                if array.numpy().size == DIMENSION:
                    paid = is_charged(folder / "ledger.sqlite", round_, attempt)
                    sha = hashlib.sha256(array.data).hexdigest()
                    facts = {"site": folder.name, "round": round_, "attempt": attempt, "sha256": sha, "charged": paid}
                    self._witness.write("vector", **facts)
        return reply

    def _app(self, message: Message, context: Context) -> Message:
        return undertone_client.app.app(message, context)

    def _forked(self, message: Message, context: Context, site: str, round_: int) -> Message:
        """The reply of a process of its own, as Flower runs a ClientApp; no reply if it dies."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if (site, round_) == (self._run.site, self._run.round):
                failpoints._handlers[:] = [Trace(self._run.failpoint, self._run.count, kill_this_process)]
            answer = message_to_proto(self._app(message, context)).SerializeToString()
            with os.fdopen(writer, "wb") as stream:
                stream.write(answer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            answer = stream.read()
        if os.waitpid(child, 0)[1]:
            raise RuntimeError(f"the node's process at {site} died")
        return message_from_proto(MessageProto.FromString(answer))


def pinned(seed: int | None, where: Callable[[], str]) -> Entropy:
    return OsEntropy() if seed is None else KeyedEntropy(seed, where)


class PinnedNode:
    """A node whose coins come from the seed."""

    seed: int | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def handle(self, request: Any) -> Any:
        where = node_stream(self.folder.name, request.round, request.attempt)
        return Node(self.folder, pinned(self.seed, lambda: where)).handle(request)


def run_to_its_end(run: Run) -> int:
    """`run_study` over all sites of the world; the exit code says how it ended."""
    world = Path(run.world)
    witness = Witness(world)
    if run.failpoint and not run.site:
        failpoints._handlers.append(Trace(run.failpoint, run.count, kill_this_process))
    identify()
    PinnedNode.seed = run.seed
    entropy = WatchedEntropy(pinned(run.seed, lambda: coordinator_stream(*witness.newest_attempt())), witness.drawn)
    sites = dict(enumerate(sorted((world / "sites").iterdir()), SUPERLINK_NODE_ID + 1))
    relay: Any = Relay(run, witness)
    install_fault(run)
    try:
        run_study.run_study(InProcessGrid(relay, sites), world / "run", entropy)
    except UndertoneError as error:
        witness.write("refused", error=type(error).__name__, message=str(error))
        return REFUSED if isinstance(error, Refused) else BAD_INPUT
    except BaseException:  # noqa: BLE001 - the finding that the auditor looks for
        witness.write("traceback", text=traceback.format_exc())
        return TRACEBACK
    witness.write("done")
    return DONE


_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}


def install_fault(run: Run) -> None:
    """The interpreter's audit hook sees each call before the kernel does, and may answer in its place.

    SQLite writes past it: it has tests of its own, and `file_limit`, which the kernel keeps.
    """
    if run.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.file_limit, resource.RLIM_INFINITY))
    if not run.fault:
        return
    folder, hits = str(Path(run.world) / run.fault), 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal hits
        opened = event == "open" and (run.reading or (args[2] or 0) & _WRITES)
        if (opened or event in _CHANGES) and str(args[0]).startswith(folder):
            hits += 1
            if hits >= run.count:
                raise OSError(run.error, os.strerror(run.error), str(args[0]))

    sys.addaudithook(hook)


def prepare_this_process() -> None:
    """The dummy method is registered; the odometer's accountant is not asked, and nobody waits long for a lock."""
    METHODS[DummyMethod.name] = DummyMethod
    telemetry.epsilon_spent = lambda *_: 1.0
    devices.present = lambda: (devices.CPU,)  # looking for others would import torch in every fork
    undertone_client.app.Node = PinnedNode
    ledger_file._BUSY_SECONDS = attempt_store._BUSY_SECONDS = 0.3


def run_in_a_fork(run: Run) -> int:
    """A process of its own for one run; killed from outside where `run` says so. Minus the signal if one ended it."""
    child = os.fork()
    if child == 0:
        quiet = os.open(Path(run.world) / "process.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os._exit(run_to_its_end(run))
    if run.kill_after is not None:
        time.sleep(run.kill_after)
        os.kill(child, signal.SIGKILL)  # not waited for yet, so the number is still this child's
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    """Until standard input ends."""
    for line in sys.stdin:
        command = json.loads(line)
        if "build" in command:
            build_world(Path(command["build"]), Path(command["base"]), command["sizes"], **command["options"])
            answer: object = "built"
        else:
            answer = run_in_a_fork(Run(**command))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    prepare_this_process()
    if len(sys.argv) > 1:  # one run in this very process, which dies where the environment says
        obey_environment()
        os._exit(run_to_its_end(Run(**json.loads(sys.argv[1]))))
    serve()
