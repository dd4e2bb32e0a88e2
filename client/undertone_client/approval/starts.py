"""A plan that starts from a release: what a site checks of that release before a person is asked (PRIVACY 25)."""

from dataclasses import dataclass
from pathlib import Path

from undertone.errors import AncestorNotCharged, InputError, NotApproved
from undertone.release.start import check_start
from undertone.study.plan import Plan
from undertone_client.approval.books import Books


@dataclass(frozen=True)
class CheckedStart:
    """What a site found of the release that a plan starts from.

    Attributes:
        ancestor: the plan of its study.
        rounds: how many of its rounds this site's ledger charges.
        sums: in how many of its sums, one a round, the release says that the site is.
    """

    ancestor: Plan
    rounds: int
    sums: int


def checked_start(site: str, plan: Plan, start: Path | None, books: Books) -> CheckedStart | None:
    """Verify the release that a plan starts from, and hold it against the site's ledger; None where it has no start.

    Args:
        site: that is asked.
        plan: that waits.
        start: the folder of the release; None: none was given.
        books: the site's ledger.

    Raises:
        NotApproved: the plan has a start and no folder was given.
        UnfitStart: the folder holds another release, or one that does not verify.
        InputError: a folder was given and the plan has no start.
        AncestorNotCharged: the release says that this site is in its sums, and the ledger lacks those charges.
        FolderError: there is no such folder.
    """
    ancestor, pinned = plan.ancestor, plan.start
    if ancestor is None or pinned is None:
        if start is not None:
            raise InputError(f"plan {plan.digest[:8]} starts from its base model; leave --start out")
        return None
    if start is None:
        raise NotApproved(
            f"plan {plan.digest[:8]} starts from the release of the study {ancestor.study} (manifest "
            f"{pinned.manifest[:8]}), which is looked at before the plan is approved: get it from the coordinator, and "
            "name its folder with --start FOLDER"
        )
    found, charged = check_start(plan, start), books.charged(ancestor.digest)
    sums, rounds = found.sums_of(site, ancestor), ancestor.privacy.rounds
    # A site charges a round before its vector leaves, so it has charged every round in whose sum it is.
    if len(charged & set(range(1, rounds + 1))) < sums:
        raise AncestorNotCharged(
            f"the release of {ancestor.study} (plan {ancestor.digest[:8]}) says that {site} is in the sums of "
            f"{'all its' if sums == rounds else f'{sums} of its'} {rounds} rounds, and the ledger of this site charges "
            f"{len(charged)} of them: the ledger is an older copy or another, or the release is not what it says. "
            "Nothing starts from it here"
        )
    return CheckedStart(ancestor, len(charged), sums)
