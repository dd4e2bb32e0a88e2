"""`undertone node forget`, `unit-of`, and `withdraw --unit`: people who leave, and studies that are over."""

from pathlib import Path

import click

from undertone.core.text import shown
from undertone_cli.console import confirmed, out
from undertone_client.compute.erasing import Withdrawn, forget_study, study_called, withdraw_unit
from undertone_client.registration.units import Meaning, meanings
from undertone_client.site.folder import SiteDir

_RELEASED = (
    "What releases of a study keep of a unit that it had registered is bounded by the study's epsilon, and that stays "
    "as it was stated: a release cannot be called back, and whether coins ever chose the unit is known to nobody."
)


def withdraw_from_data(site_dir: Path, unit: str, name: str, yes: bool) -> None:
    """Withdraw a unit for ever: it is never read again, whatever the metadata list.

    Studies that have it registered go on, with a zero row for it, or with its shard made anew without it, from their
    next attempt on; nobody outside can tell. What was made of its records is deleted: cached latents, rows of attempts
    that were not answered, what was made of its shard, its words in registrations. The ledger stays as it is.
    """
    site = SiteDir(site_dir)
    (meaning,) = meanings(site, unit, name)
    _show(meaning)
    if not yes:
        confirmed(f"Withdraw it from {name} for ever?")
    done = withdraw_unit(site, name, unit)
    _say("withdrawn: its records are never read again" if done.new else "it was withdrawn before; deleted once more")
    _say(f"deleted: latents in {done.files} files of the cache, {done.rows} rows of attempts that are under way")
    _remains(done)


@click.command("forget")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.argument("study_digest")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(site_dir: Path, study_digest: str, yes: bool) -> None:
    """Delete what this site keeps of a study: latents, coins, rows, sums, sessions and its registered records.

    STUDY_DIGEST is the plan's digest, or its first 8 characters or more. The node then answers the study no more. What
    was spent stays in the ledger for ever.
    """
    site = SiteDir(site_dir)
    found = study_called(site, study_digest)
    _say(f"{shown(found.study)} ({found.plan_digest}), {len(found.table.records)} records of {found.data.name}")
    if not yes:
        confirmed("Delete what is kept of it? The node then answers it no more.")
    done = forget_study(site, found.plan_digest)
    latents = "its latents" if done.latents else "no latents, for there are none or another study uses them"
    _say(
        f"deleted: its registration, {latents}, coins and rows of {done.attempts} attempts, "
        f"{done.sessions} sessions of secure aggregation"
    )
    _say(
        f"what remains: {done.charges} charges in ledger.sqlite, which are never deleted; its approval, until that "
        "ends; lines in node.log; your images, your metadata, your backups"
    )


@click.command("unit-of")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.argument("patient_id")
@click.option("--data", "name", metavar="NAME", help="Look in this data set alone.")
def unit_of(site_dir: Path, patient_id: str, name: str | None) -> None:
    """Find the unit that an id means, in any spelling, and the studies that have it registered: never their coins."""
    for meaning in meanings(SiteDir(site_dir), patient_id, name):
        _show(meaning)


def _show(meaning: Meaning) -> None:
    data = meaning.data
    called = ", ".join(shown(one) for one in meaning.spellings) or shown(meaning.unit)
    _say(f"{data.name}: {data.unit} {called}{' (withdrawn)' if meaning.withdrawn else ''}")
    for registration, places in meaning.held:
        _say(f"  registered in {shown(registration.study)} ({registration.plan_digest}): {len(places)} records")
    if not meaning.held:
        _say("  registered in no study")


def _remains(done: Withdrawn) -> None:
    if done.sums:
        _say(
            f"{done.sums} finished sums of attempts under way stay for these attempts: what is in a sum cannot be told "
            "from it"
        )
    if done.meaning.held:
        _say("what remains in the registrations above: the unit's id, names and digests of its files, not its words")
        _say(_RELEASED)
    _say(
        "what remains beside: a MAC of the id, which keeps it out; charges in the ledger; lines of node.log from "
        "before; its images and lines of metadata, which are yours to delete; your backups"
    )


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
