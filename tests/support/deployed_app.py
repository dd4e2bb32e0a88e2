"""The coordinator's side of a dummy study on a SuperLink: what `run_study` does, without model, release or torch."""

from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from tests.support.dummy import DIMENSION, DummyMethod, DummyOptions
from undertone.methods.registry import METHODS
from undertone.privacy.entropy import OsEntropy
from undertone.privacy.ledger import Ledger
from undertone_server import gate
from undertone_server.collect.deadlines import Deadlines
from undertone_server.collect.gathering import Patience
from undertone_server.collect.sites import Sites
from undertone_server.ledger_heads import LedgerHeads, LeftOut
from undertone_server.rounds import Coordinator
from undertone_server.run_folder import RunFolder

SECONDS = 60.0
app = ServerApp()


class _SilentTelemetry:
    def round_done(self, *_: object) -> None:
        pass


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All rounds of RUN; the noise that was drawn is left in RUN/drawn.npy."""
    METHODS[DummyMethod.name] = DummyMethod
    run = RunFolder(Path(str(context.run_config["run-dir"])))
    plan, sampler = run.plan(), gate.rounded_gaussian

    def recorded(*arguments: Any) -> NDArray[np.int64]:
        drawn = sampler(*arguments)
        np.save(run.folder / "drawn.npy", drawn)
        return drawn

    gate.rounded_gaussian = recorded  # type: ignore[assignment]
    heads, left_out = LedgerHeads(run.checkpoints / "ledger-heads"), LeftOut(run.checkpoints / "left-out")
    sites = Sites(grid, tuple(plan.cohort.units), run.federation(), Deadlines.equal(SECONDS), heads, left_out)
    with Ledger.open(run.ledger) as ledger:
        sites.find()
        method, telemetry = DummyMethod(DummyOptions()), _SilentTelemetry()
        patience = Patience(SECONDS, 2.0)
        study = Coordinator(plan, [method], run, sites, ledger, telemetry, OsEntropy(), patience, patience)  # type: ignore[arg-type]
        study.run_rounds(np.zeros(DIMENSION, dtype=np.float32))
