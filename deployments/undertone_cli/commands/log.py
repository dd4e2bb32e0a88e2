"""`undertone log`: a site's audit log."""

import json
import re
from pathlib import Path

import click

from undertone.errors import AuditLogCorrupt
from undertone_cli.console import lines, out
from undertone_client.site.audit_chain import verify_chain

CUT_OFF = (
    "the last line was cut off, as by a power cut or a full disk: what it would have said was never confirmed. The "
    "next line begins a new file"
)


@click.group("log")
def command() -> None:
    """What is written about a site's decisions."""


def _hash(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
        raise click.BadParameter("a hash is 64 digits of 0-9 and a-f, as `undertone log verify` prints it")
    return value


@command.command("verify")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option("--expect", metavar="HASH", callback=_hash, help="The hash of a line, kept earlier and elsewhere.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(site_dir: Path, expect: str | None, as_json: bool) -> None:
    """Check the hash chain of a site's audit log over all its files, and print the newest hash.

    The chain shows a line that was changed, swapped or removed, and names the first. It cannot show that the newest
    lines were removed or changed: keep the newest hash elsewhere, and give it as --expect later. It must then be in the
    chain. Nothing is written.

    Exit code 3 where something does not hold. A last line that was cut off is told from a changed one, and is no fault.

    Example: undertone log verify /srv/undertone/site --expect 5d1f...
    """
    try:
        found = verify_chain(site_dir, expect)
    except AuditLogCorrupt as error:
        if as_json:
            click.echo(json.dumps({"holds": False, "fault": str(error)}))
        raise
    if as_json:
        values = {
            "holds": True,
            "site": found.site,
            "files": found.logs,
            "lines": found.lines,
            "newest": found.newest,
            "newest_time": found.newest_time,
            "cut_off": found.cut,
            "expected": expect,
        }
        click.echo(json.dumps(values))
        return
    kept = "" if expect is None else ", with the line that was kept"
    out.print(f"{found.site}: the audit log's chain holds{kept}", soft_wrap=True, markup=False, highlight=False)
    if found.cut:
        out.print(f"WARN {CUT_OFF}", soft_wrap=True, markup=False, highlight=False)
    lines(
        [
            ("files", found.logs),
            ("lines", found.lines),
            ("newest line", found.newest_time),
            ("newest hash, to keep elsewhere", found.newest),
        ]
    )
