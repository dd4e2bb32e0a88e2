"""From a plan to a RUN in COORDINATOR_DIR that sites could take part in, and its start on Flower."""

import shutil
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from undertone.core.canonical import Json
from undertone.core.durable import exclusively, part_of, storage_errors, sync
from undertone.errors import FolderError, NotApproved, SuperLinkUnreachable
from undertone.study.claim import check_claim
from undertone.study.plan import Plan
from undertone.study.timing import check_timing
from undertone_server.home.folder import Home
from undertone_server.run_folder import RunFolder
from undertone_server.studies.flower_runs import FINISHED, numbers_of, start_run, state_of, stop_run


def name_of(plan: Plan) -> str:
    """NAME-DIGEST8: what the study's folder is called."""
    return f"{plan.study}-{plan.digest[:8]}"


def make_run(home: Home, plan: Plan, now: datetime, approval_days: int, start: Path | None = None) -> RunFolder:
    """Write a RUN for a plan, whole or not at all: plan, signature and manifest, with the coordinator's one key.

    Args:
        home: the coordinator.
        plan: resolved from a study that publishes its figures.
        now: the time.
        approval_days: how long the first round waits for sites that have not approved the plan.
        start: the release that the plan starts from, where it does.

    Raises:
        Refused: a plan that no site would answer, and why.
        FolderError: the study was submitted before, or there is no federation.
    """
    plan.check_version()
    check_claim(plan)
    check_timing(plan)
    federation = home.federation()
    federation.check_current(now)
    strangers = sorted(set(plan.cohort.units) - set(federation.sites))
    if strangers:
        raise NotApproved(
            f"cohort.units names {', '.join(strangers)}, and manifest {federation.serial} of {federation.name} holds "
            f"{', '.join(sorted(federation.sites))}: accept them with `undertone coordinator add-node`, or plan without"
        )
    folder = home.runs / name_of(plan)
    with exclusively(folder):
        if folder.exists():
            raise FolderError(
                f"{folder} exists: this very plan was submitted; `undertone coordinator resume {folder.name}` goes on"
            )
        part = part_of(folder)
        shutil.rmtree(part, ignore_errors=True)
        facts: dict[str, Json] = {"setting": f"federation {federation.name}", "approval_days": approval_days}
        run = RunFolder.create(part, plan, facts, home.key_file, start)
        run.keep_federation(federation)
        with storage_errors(folder):
            part.rename(folder)
            sync(home.runs)
    return RunFolder(folder)


def start(home: Home, run: RunFolder, app: Path, now: datetime) -> str:
    """Start the study of a RUN on Flower, or go on with it: Flower's number of the new run.

    The newest manifest becomes the RUN's: it is the one that the sites have pinned since.

    Raises:
        FolderError: the study is done, or a process runs it.
        SuperLinkUnreachable: the SuperLink does not run.
    """
    with exclusively(run.folder):
        if run.release.exists():
            raise FolderError(f"{run.release} exists: this study is done")
        if run.held():
            raise FolderError(f"a process runs the study in {run.folder}; wait for it, or stop it first")
        for number in numbers_of(run)[-1:]:
            # Its process is gone, or has not begun: Flower notices a death only after a while. A SuperLink that does
            # not know it, because its own state was lost, is no reason to wait either; the lock of RUN decides.
            with suppress(SuperLinkUnreachable):
                if not state_of(home, number).startswith(FINISHED):
                    stop_run(home, number)
        federation = home.federation()
        federation.check_current(now)
        run.keep_federation(federation)
        return start_run(home, run, app)
