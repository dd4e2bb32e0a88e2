"""`undertone verify`: does a release say the truth about itself?"""

from pathlib import Path

import click

from undertone.release.start import check_start
from undertone.release.verify import checked_plan, verify
from undertone_cli.console import lines, out, table
from undertone_cli.released import COORDINATOR_HELP, coordinator_key

SELF_CONSISTENT = 4


@click.command("verify")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--coordinator", metavar="KEY", callback=coordinator_key, help=COORDINATOR_HELP)
@click.option("--start", type=click.Path(path_type=Path), help="The release that its study started from, if any.")
def command(release: Path, coordinator: str | None, start: Path | None) -> None:
    """Check a RELEASE: every file's hash, both signatures, weights, the ledger's chain, and epsilon recomputed.

    Exit code 3 and the name of the file where something does not hold. Without --coordinator the release is only
    checked against the key it carries, which anybody can make: the first line says so, and the exit code is 4. A site
    has the key among `coordinators` in its policy.toml, the coordinator in RUN/federation.json.

    A study may have started from another's release. Its events, figures and digests are in the plan, so the claim is
    recomputed without it; with --start that release is verified too, and must be the one that the plan pins.
    """
    found = verify(release, coordinator)
    if start is not None:
        check_start(checked_plan(release, coordinator)[0], start)
    if found.signer_checked:
        out.print(f"{release}: verified", style="bold", highlight=False, markup=False, soft_wrap=True)
    else:
        first = (
            f"{release}: self-consistent, signer not checked; give --coordinator KEY, got from the coordinator itself"
        )
        out.print(first, style="bold yellow", highlight=False, markup=False, soft_wrap=True)
    table(
        "what was checked" if found.signer_checked else "what it says of itself",
        ["", ""],
        [
            ("study", found.study),
            ("unit", found.unit),
            (f"epsilon recomputed ({found.accountant}, the claim)", f"{found.epsilon:.6f} at delta {found.delta:g}"),
            *([("the claim covers", f"this study and {found.with_study} together")] if found.with_study else []),
            ("epsilon recomputed (RDP)", f"{found.epsilon_rdp:.6f}"),
            ("attempts charged", str(found.attempts_charged)),
            *([] if start is None else [("start", "the release that its plan pins, which verifies")]),
        ],
    )
    lines([("plan digest", found.digest), ("signed by", found.coordinator)])
    if not found.signer_checked:
        click.get_current_context().exit(SELF_CONSISTENT)
