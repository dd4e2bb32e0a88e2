"""Where a study stands, from its folder: rounds, attempts, the odometer, who is missing and why."""

from dataclasses import asdict, dataclass
from pathlib import Path

from undertone.core.canonical import Json
from undertone.core.text import shown
from undertone.errors import InputError
from undertone.privacy.accounting import epsilon_spent
from undertone.privacy.ledger import Ledger
from undertone_server.home.folder import Home
from undertone_server.run_folder import RunFolder
from undertone_server.status import read_status
from undertone_server.studies.flower_runs import numbers_of

# States in which nobody goes on with a study by itself.
OVER = {"released", "rehearsed", "stopped"}


@dataclass(frozen=True)
class Standing:
    """A study at one moment.

    Attributes:
        name: of its folder.
        state: "submitted", "waiting", "running", "interrupted" (nobody runs it), "stopped" (by an error), "released",
            "unreleased" (it moved nothing that can be seen) or "rehearsed".
        because: what it waits for, or why it stopped.
        since: when that was said, UTC; empty before anything was.
        rounds_done, rounds: of the plan.
        attempts_used, max_attempts: sums that sites were asked for, failed ones included.
        epsilon_spent: by what is charged so far; an odometer, the claim is `epsilon`.
        missing: site -> why it is not in.
        not_approved: the sites among them that have not approved the plan.
        no_attempt_to_spare: whether a round that breaks ends the study.
        flower_runs: Flower's numbers of its runs, the newest last.
    """

    name: str
    digest: str
    state: str
    because: str
    since: str
    rounds_done: int
    rounds: int
    attempts_used: int
    max_attempts: int
    epsilon_spent: float
    epsilon: float
    delta: float
    missing: dict[str, str]
    not_approved: list[str]
    no_attempt_to_spare: bool
    flower_runs: list[str]

    def as_json(self) -> dict[str, Json]:
        """For --json."""
        return asdict(self)


def standing(run: RunFolder) -> Standing:
    """Where the study of a RUN stands.

    Raises:
        FolderError, PlanChanged, NotApproved: RUN is damaged.
    """
    plan, status = run.plan(), read_status(run)
    with Ledger.open(run.ledger, read_only=True) as ledger:
        charged = ledger.events(plan.digest)
    spent = epsilon_spent(charged, plan.privacy.delta) if charged else 0.0
    return Standing(
        name=run.folder.name,
        digest=plan.digest,
        state=_state(run, "" if status is None else status.state),
        because="" if status is None else status.because,
        since="" if status is None else status.time,
        rounds_done=run.rounds_done(),
        rounds=plan.privacy.rounds,
        attempts_used=run.attempts_used(),
        max_attempts=plan.privacy.max_attempts,
        epsilon_spent=min(spent, plan.privacy.epsilon),
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        missing={} if status is None else dict(status.missing),
        not_approved=[] if status is None else status.not_approved,
        no_attempt_to_spare=plan.no_attempt_to_spare,
        flower_runs=numbers_of(run),
    )


def _state(run: RunFolder, said: str) -> str:
    """What was said, unless what is on disk, or that nobody is there any more, says otherwise."""
    if run.release.exists():
        return "released"
    if run.unreleased.exists():
        return "unreleased"
    if said in OVER or run.held():
        return said or "running"
    return "interrupted" if said else "submitted"


def runs_of(home: Home) -> list[RunFolder]:
    """All of a coordinator's studies, by name."""
    return [RunFolder(path.parent) for path in sorted(home.runs.glob("*/plan.json"))]


def run_named(home: Home, name: str) -> RunFolder:
    """The study of this name: its folder's, whole or its beginning, or a path.

    Raises:
        InputError: none, or several.
    """
    found = [run for run in runs_of(home) if run.folder.name == name]
    found = found or [run for run in runs_of(home) if run.folder.name.startswith(name)]
    if not found and (Path(name) / "plan.json").is_file():
        found = [RunFolder(Path(name).resolve())]
    if len(found) == 1:
        return found[0]
    there = ", ".join(run.folder.name for run in found or runs_of(home)) or "none yet"
    what = "several studies begin with" if found else "no study is called"
    raise InputError(f'{what} "{shown(name)}"; there are: {shown(there, 2000)}')
