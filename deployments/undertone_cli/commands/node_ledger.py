"""`undertone node ledger`: what is gone of each data set's budget, and whether the ledger is the newest one."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from math import ceil
from pathlib import Path

import click

from undertone.core.durable import storage_errors, sync, write_durable
from undertone.core.progress import reporter
from undertone.errors import FolderError, LedgerRestored, PlanChanged
from undertone.privacy.ledger import Ledger
from undertone_cli.console import lines, out, table
from undertone_client.approval.approvals import approval_of
from undertone_client.site.adopting import adopt_files
from undertone_client.site.budget import Budget, StudyBudget, lose
from undertone_client.site.folder import SiteDir

_HEAD = re.compile(r"[0-9a-f]{64}")
_LARGEST_HEAD_FILE = 1000
AFTER_A_RESTORE = (
    "So it is an older copy, or another ledger: charges may be missing in it, and what it says is left is too "
    "much. What to do: (1) stop the node; approve, withdraw and end nothing; keep this ledger.sqlite as "
    "evidence. (2) Put back the newest copy whose head is the one in the file, and ask again with "
    "--expect-head. (3) Where no such copy is left, put back the newest there is and say `undertone node ledger "
    "SITE_DIR --lost REASON`: all that is reserved counts as charged, also what has expired meanwhile. Say "
    "`undertone node data add` of every data set that was added since once more, word for word. Approve again, "
    "for the same data sets, every plan that was approved since (the audit log names them; of one that was withdrawn, "
    "move approved/DIGEST.json to the evidence first), and say --lost once more: together that is at least what was "
    "charged. Where one of those plans no longer fits, that data set is used up: approve nothing for it any "
    "more. (4) Begin a new head file."
)
BESIDE = "spent, reserved and left are readings at the cap's delta; they do not add up, and are no claims"


@click.command("ledger")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON instead of tables.")
@click.option("--export", type=click.Path(path_type=Path), help="Write a consistent copy of the ledger to a new file.")
@click.option("--expect-head", type=click.Path(path_type=Path), help="Insist that the head in this file is in it.")
@click.option("--write-head", type=click.Path(path_type=Path), help="Keep the newest head in this file.")
@click.option("--lost", metavar="REASON", help="Charges are missing for good: all that is reserved counts as charged.")
def command(
    site_dir: Path,
    as_json: bool,
    export: Path | None,
    expect_head: Path | None,
    write_head: Path | None,
    lost: str | None,
) -> None:
    """Show the budget of each data set: cap, spent, reserved, left, and by study; verify the ledger's chain.

    Cutting off the end of a ledger, or putting an old copy back, breaks no chain. So let your backups keep the newest
    head in a file on another machine: --write-head after each backup, --expect-head after each restore. --write-head
    replaces a file only where the head in it is in the ledger. Exit code 3 where the ledger is damaged, or an older
    copy; what to do then is said.

    --lost is for a restore whose newest copy is gone. It cannot be undone, and ends every study under way.

    Example: undertone node ledger /srv/undertone/site --expect-head /backup/head --export /backup/ledger-1.sqlite
    """
    site = SiteDir(site_dir)
    with Ledger.open(site.ledger, read_only=lost is None) as ledger:
        for kept in (expect_head, write_head if write_head and write_head.exists() else None):
            if kept is not None:
                _refuse_older(ledger, kept)
        if lost is not None:
            lose(ledger, lost)
            for name in adopt_files(site):
                reporter().line(f"{name} counts as it is now: what joined or withdrew after it, say again")
        budgets = Budget.of_all(ledger)
        if export is not None:
            _export(ledger, export)
        if write_head is not None:
            write_durable(write_head, f"{ledger.head}\n".encode())
        entries, head = len(ledger.entries()), ledger.head
    known = {study.digest: _who(site, study.digest) for budget in budgets for study in budget.studies}
    if as_json:
        _print_json(budgets, known, entries, head)
    else:
        _print_tables(budgets, known, entries, head)


def _refuse_older(ledger: Ledger, kept: Path) -> None:
    """Insist on the head that was kept elsewhere.

    Raises:
        FolderError: there is none in the file.
        LedgerRestored: it is not in the ledger.
    """
    with storage_errors(kept), kept.open("rb") as stream:
        text = stream.read(_LARGEST_HEAD_FILE).decode("utf-8", "replace").strip()
    if not _HEAD.fullmatch(text):
        raise FolderError(f"{kept} holds no head of a ledger; `undertone node ledger --write-head` writes one")
    if all(entry.hash != text for entry in ledger.entries()):
        raise LedgerRestored(f"the ledger lacks the entry {text[:16]}... whose head is in {kept}. {AFTER_A_RESTORE}")


def _export(ledger: Ledger, path: Path) -> None:
    """A copy that is durable, private and read back whole.

    Raises:
        LedgerUnavailable: the file exists, or cannot be written.
    """
    ledger.copy_to(path)
    with storage_errors(path):
        path.chmod(0o600)
        sync(path)
        sync(path.parent)
    Ledger.open(path, read_only=True, expect_head=ledger.head).close()


def _who(site: SiteDir, digest: str) -> tuple[str, str]:
    """(study, coordinator) of an approved plan, which the ledger does not know; empty where no approval is readable."""
    try:
        approval = approval_of(site, digest)
        return ("", "") if approval is None else (approval.plan_approved().study, approval.document.coordinator)
    except (FolderError, PlanChanged):
        return "", ""


def _print_json(budgets: list[Budget], known: Mapping[str, tuple[str, str]], entries: int, head: str) -> None:
    data_sets = [asdict(budget) for budget in budgets]
    for budget in data_sets:
        for study in budget["studies"]:
            study["study"], study["coordinator"] = known[study["digest"]]
    print_json = {"verified": True, "entries": entries, "head": head, "data_sets": data_sets}
    click.echo(json.dumps(print_json, indent=2, ensure_ascii=True))


def _print_tables(budgets: list[Budget], known: Mapping[str, tuple[str, str]], entries: int, head: str) -> None:
    out.print(f"ledger verified: {entries} entries", highlight=False)
    lines([("head", head)])
    for budget in budgets:
        table(
            f"data set {budget.name}: budget of each {budget.unit}, for ever, at delta {budget.delta:g}",
            ["study", "asked by", "attempts", "spent", "reserved", "state"],
            [_row(study, *known[study.digest]) for study in budget.studies],
        )
        figures = (
            _up(budget.spent),
            _up(budget.reserved),
            _up(budget.committed),
            f"{int(budget.left * 1000) / 1000:.3f}",
        )
        lines(
            [("cap", f"epsilon {budget.epsilon:g}"), *zip(("spent", "reserved", "both", "left"), figures, strict=True)]
        )
    if budgets:
        lines([("note", BESIDE)])
    else:
        out.print("no data set is registered; `undertone node data add` registers one", highlight=False)


def _row(study: StudyBudget, name: str, coordinator: str) -> list[str]:
    return [
        f"{study.digest[:8]} {name}".strip(),
        coordinator or "unknown",
        f"{study.charged} of {study.attempts}",
        _up(study.spent),
        _up(study.reserved),
        "approved" if study.freed is None else study.freed,
    ]


def _up(epsilon: float) -> str:
    """In thousandths, rounded up."""
    return f"{ceil(epsilon * 1000) / 1000:.3f}"
