"""One study from RUN folder to release."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

from flwr.serverapp import Grid

from undertone.core.code_digest import check_package
from undertone.core.durable import storage_errors
from undertone.core.progress import reporter
from undertone.errors import FolderError
from undertone.methods.protocol import PreparedMethod, stages_of
from undertone.models.base import load_base
from undertone.models.devices import choose
from undertone.models.interface import Base
from undertone.models.pinned import PinnedBase, check_pins, pin
from undertone.privacy.entropy import Entropy, OsEntropy
from undertone.privacy.ledger import Ledger
from undertone.privacy.stages import Release
from undertone.release.statement import SIMULATION, TookPart
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone.study.planned import planned_method
from undertone_server.collect.approvals import wait_for_approvals
from undertone_server.collect.deadlines import DAY, Deadlines, deadlines_for
from undertone_server.collect.gathering import BRIEF, Patience
from undertone_server.collect.sites import Sites
from undertone_server.collect.waiting import Waiting
from undertone_server.ledger_heads import LedgerHeads, LeftOut
from undertone_server.movement import movement
from undertone_server.release import release
from undertone_server.rounds import Coordinator
from undertone_server.run_folder import RunFolder
from undertone_server.starting import first_state
from undertone_server.status import read_status, tell
from undertone_server.telemetry import Telemetry


def run_study(grid: Grid, folder: Path, entropy: Entropy | None = None) -> Release | None:
    """Run a study, or go on where an earlier process stopped, and write its release; None after a rehearsal.

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
        deadlines = deadlines_for(run.facts()["setting"])
        heads, left_out = LedgerHeads(run.checkpoints / "ledger-heads"), LeftOut(run.checkpoints / "left-out")
        sites = Sites(grid, tuple(plan.cohort.units), run.federation(), deadlines, heads, left_out)
        try:
            return _run(sites, deadlines, run, plan, entropy or OsEntropy())
        except Exception as error:
            tell(run, "stopped", sites.missing or _missing_before(run), because=f"{type(error).__name__}: {error}")
            raise


def _run(sites: Sites, deadlines: Deadlines, run: RunFolder, plan: Plan, entropy: Entropy) -> Release | None:
    base = pin(plan.model.base, plan.model.revision)
    check_pins(base, plan.model.files)
    method = planned_method(plan, base)
    if isinstance(method, PreparedMethod):
        method.prepare(base)  # now: at the release it would be too late
    telemetry = Telemetry(run.folder / "events", plan)
    with Ledger.open(run.ledger) as ledger:
        if run.kept_state(plan.privacy.rounds) is None:  # else no site is needed any more
            _find(sites, deadlines, run, plan)
        waits = (*_patiences(run, plan, deadlines), Waiting(deadlines.preparation))
        methods = [stage.method for stage in stages_of(method, base)]
        study = Coordinator(plan, methods, run, sites, ledger, telemetry, entropy, *waits, base=lazily(base))
        start = first_state(run, plan, method, base)
        state = study.run_rounds(start)
    telemetry.close()
    took_part = _took_part(sites, run, plan)
    if plan.rehearsal:
        tell(run, "rehearsed", took_part.missing, round_=plan.privacy.rounds)
        return None
    opened = [*map(tuple, run.sites_opened(plan.privacy.rounds))]
    reporter().line(str(movement(plan, method.released(start), method.released(state), opened)))
    released = release(run, plan, method, state, took_part)
    tell(run, "released", took_part.missing, round_=plan.privacy.rounds)
    return released


def lazily(base: PinnedBase) -> Callable[[], Base]:
    """Loads the base when it is first asked for, on the best device of this machine, and once."""
    return lru_cache(maxsize=1)(lambda: load_base(base, choose()[0]))


def _missing_before(run: RunFolder) -> Mapping[str, str]:
    """Who was missing when that was said last: sites that refused are met again before a study gives up."""
    try:
        status = read_status(run)
    except FolderError:  # the error that stops the study is the one to tell
        return {}
    return {} if status is None else status.missing


def _find(sites: Sites, deadlines: Deadlines, run: RunFolder, plan: Plan) -> None:
    """Who is there; before the first round of a deployed study also wait for approvals."""
    facts = run.facts()
    tell(run, "running", sites.missing)
    sites.find()
    if facts["setting"] != SIMULATION and not run.attempts_asked(1):
        days = facts.get("approval_days")
        seconds = days * DAY if isinstance(days, int) else deadlines.approvals
        wait_for_approvals(plan, run, sites, Patience(seconds, deadlines.pause))


def _took_part(sites: Sites, run: RunFolder, plan: Plan) -> TookPart:
    """Whose sums were opened, from what is on disk; why the others were away, from this process."""
    opened = run.sites_opened(plan.privacy.rounds)
    everywhere = set.intersection(*opened)
    why = sites.missing if sites.present else {}  # nobody was asked where all rounds were done before
    away = {site: why.get(site, "not in every sum") for site in plan.cohort.units if site not in everywhere}
    sums = {site: sum(site in of for of in opened) for site in away}
    partly = {site: count for site, count in sums.items() if count}
    return TookPart(sorted(everywhere), away, min(map(len, opened)), partly)


def _patiences(run: RunFolder, plan: Plan, deadlines: Deadlines) -> tuple[Patience, Patience]:
    """For a site of the study's list, and before there is one.

    In a simulation nobody comes back by waiting, and a rehearsal says who is away instead.
    """
    if run.facts()["setting"] == SIMULATION or plan.rehearsal:
        return BRIEF, BRIEF
    return Patience(deadlines.absent, deadlines.pause), Patience(deadlines.start, deadlines.pause)
