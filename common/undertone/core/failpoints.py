"""Failpoints: named places around every durable step, where a test kills the process (PRIVACY 11, 12).

`reached` does nothing in a program that people run: there is no handler, and the package has no way to install one.
It reads no environment variable either. Whoever could set one could kill the process in other ways, and a run survives
a death anywhere; still, a program that hospitals run needs no switch for it. The tests bring their own handler
(`tests/support/failpoints.py`), for real processes too.

The registry is closed. mypy refuses a name that is not in it, `tests/arch` refuses a name that is used nowhere or
twice, and the crash tests fail if a run never reaches one.
"""

from collections.abc import Callable
from typing import Literal, get_args

Failpoint = Literal[
    # a file, wherever it is written
    "durable/written",
    "durable/synced",
    "durable/renamed",
    # a node: coins, row cache, charge, answer
    "preparing/coins drawn",
    "preparing/coins durable",
    "latents/computed",
    "latents/durable",
    "preparing/rows computed",
    "preparing/rows durable",
    "preparing/rows summed",
    "preparing/sum durable",
    "summing/batch summed",
    "summing/sum durable",
    "attempt_store/before commit",
    "node/before charge",
    "node/charge durable",
    "node/before answer",
    # a node's session of secure aggregation
    "session/step durable",
    "session/stored state durable",
    "session/survivors durable",
    # the coordinator's round: asked, Q, receipt, noise, V, update
    "rounds/void durable",
    "rounds/prepared",
    "run/round folder made",
    "rounds/asked durable",
    "secure/survivors durable",
    "secure/consistency checked",
    "rounds/answered",
    "run/salt durable",
    "run/sites durable",
    "run/Q durable",
    "gate/before charge",
    "ledger/before commit",
    "gate/receipt durable",
    "gate/noise drawn",
    "run/V durable",
    "run/Q dropped",
    "gate/V durable, Q gone",
    "gate/V with noise shares durable",
    "rounds/updated",
    "rounds/state durable",
    # the release
    "release/part made",
    "release/weights durable",
    "release/plan copied",
    "release/ledger copied",
    "release/statement durable",
    "release/result durable",
    "release/samples durable",
    "release/card durable",
    "release/manifest durable",
    "release/renamed",
    "release/durable",
]
NAMES: tuple[Failpoint, ...] = get_args(Failpoint)

# Empty except in tests. No function adds to it, so that none can be called by mistake.
_handlers: list[Callable[[Failpoint], None]] = []


def reached(name: Failpoint) -> None:
    """Call the tests' handlers, which may kill the process here; outside tests nothing happens."""
    for handler in _handlers:
        handler(name)
