"""`undertone verify`: does a release say the truth about itself?"""

from pathlib import Path

import click

from undertone.verify import verify
from undertone_cli.console import lines, table


@click.command("verify")
@click.argument("release", type=click.Path(path_type=Path))
@click.option("--coordinator", metavar="KEY", help="The public key (64 hex digits) that must have signed it.")
def command(release: Path, coordinator: str | None) -> None:
    """Check a RELEASE: every file's hash, both signatures, the ledger's chain, and epsilon from what was charged.

    Exit code 3 and the name of the file where something does not hold. Without --coordinator the release is only
    checked against the key it carries: compare that key with the one the coordinator gave you by another way. A site
    has it as `coordinator` in its policy.toml, the coordinator in RUN/federation.json.
    """
    found = verify(release, coordinator)
    table(
        f"{release}: verified",
        ["", ""],
        [
            ("study", found.study),
            ("unit", found.unit),
            (f"epsilon recomputed ({found.accountant}, the claim)", f"{found.epsilon:.6f} at delta {found.delta:g}"),
            ("epsilon recomputed (RDP)", f"{found.epsilon_rdp:.6f}"),
            ("attempts charged", str(found.attempts_charged)),
        ],
    )
    lines([("plan digest", found.digest), ("signed by", found.coordinator)])
