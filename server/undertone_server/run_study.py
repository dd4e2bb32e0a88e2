"""One study from RUN folder to release."""

from pathlib import Path

from flwr.serverapp import Grid

from undertone.core.code_digest import check_package
from undertone.core.durable import storage_errors
from undertone.core.progress import reporter
from undertone.errors import FolderError
from undertone.models.pinned import check_pins, pin
from undertone.privacy.entropy import Entropy, OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import Release
from undertone.release.statement import SIMULATION, TookPart
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_server.collect.gathering import BRIEF, Patience
from undertone_server.collect.sites import Sites
from undertone_server.ledger_heads import LedgerHeads, LeftOut
from undertone_server.movement import movement
from undertone_server.release import release
from undertone_server.rounds import Coordinator
from undertone_server.run_folder import RunFolder
from undertone_server.telemetry import Telemetry

TIMEOUT_SECONDS = 24 * 3600.0
PAUSE_SECONDS = 60.0


def run_study(grid: Grid, folder: Path, entropy: Entropy | None = None) -> Release:
    """Run a study, or go on where an earlier process stopped, and write its release.

    Raises:
        UndertoneError: see the errors of each step; nothing that was charged is lost.
    """
    run = RunFolder(folder)
    plan = run.plan()
    plan.check_version()
    check_package(plan.package_sha256)
    check_claim(plan)
    with storage_errors(folder), run.locked():
        if run.release.exists():
            raise FolderError(f"{run.release} exists: this study is done")
        return _run(grid, run, plan, entropy or OsEntropy())


def _run(grid: Grid, run: RunFolder, plan: Plan, entropy: Entropy) -> Release:
    base = pin(plan.model.base, plan.model.revision)
    check_pins(base, plan.model.files)
    method = planned_method(plan, base)
    ledger_heads, left_out = LedgerHeads(run.checkpoints / "ledger-heads"), LeftOut(run.checkpoints / "left-out")
    sites = Sites(grid, tuple(plan.cohort.units), run.federation(), TIMEOUT_SECONDS, ledger_heads, left_out)
    telemetry = Telemetry(run.folder / "events", plan)
    with Ledger.open(run.ledger) as ledger:
        sites.find()
        study = Coordinator(plan, method, run, sites, ledger, telemetry, entropy, _patience(run))
        start = method.initial_state(base)
        state = study.run_rounds(start)
    telemetry.close()
    opened = run.sites_opened(plan.privacy.rounds)
    reporter().line(str(movement(plan, method.released(start), method.released(state), [*map(tuple, opened)])))
    everywhere = set.intersection(*opened)
    missing = {
        site: sites.missing.get(site, "not in every sum") for site in plan.cohort.units if site not in everywhere
    }
    return release(run, plan, method, state, TookPart(sorted(everywhere), missing, min(map(len, opened))))


def _patience(run: RunFolder) -> Patience:
    """In a simulation nobody comes back by waiting; elsewhere a site that is away has the study's timeout."""
    return BRIEF if run.facts()["setting"] == SIMULATION else Patience(TIMEOUT_SECONDS, PAUSE_SECONDS)
