"""`undertone node init`: a site's own folder, its keys and an empty ledger."""

import re
from collections.abc import Sequence
from pathlib import Path

import click

from undertone.core.keys import public_hex
from undertone.core.text import shown
from undertone.core.unit import is_site_name, name_advice
from undertone.errors import InputError
from undertone.privacy.entropy import OsEntropy
from undertone_cli.commands.node_join import refuse_there, write_request_file
from undertone_cli.console import lines, out, typed
from undertone_client.site.audit_log import AuditLog
from undertone_client.site.config import NodeConfig
from undertone_client.site.folder import SiteDir, create_site
from undertone_client.site.policy import Policy

_KEY = re.compile(r"[0-9a-f]{64}")


def init_site(folder: Path, site: str, coordinators: Sequence[str]) -> SiteDir:
    """Make a SITE_DIR whose policy names these coordinators and allows nothing else.

    Args:
        folder: must not exist, or be empty.
        site: the site's name.
        coordinators: those that may ask, each NAME=KEY with a public key of 64 hexadecimal digits.

    Raises:
        InputError: a name or a key that is none.
        FolderError: something is there already, or the folder cannot be made.
    """
    if not is_site_name(site):
        raise InputError(f'--site "{shown(site)}" cannot name a site: {name_advice(site)}')
    made = create_site(folder, NodeConfig(site=site), policy_for(coordinators), OsEntropy())
    AuditLog(made.folder).append("site made", key=public_hex(made.identity()))
    return made


def policy_for(coordinators: Sequence[str]) -> Policy:
    """A policy that knows these coordinators and, beside that, allows nothing.

    Raises:
        InputError: names a key that is none, or that stands there twice.
    """
    named: dict[str, str] = {}
    for text in coordinators:
        name, _, key = text.rpartition("=")
        if name and _KEY.fullmatch(key) and not is_site_name(name):
            raise InputError(f"--coordinator {shown(text)} has no name for a coordinator: {name_advice(name)}")
        if not name or not _KEY.fullmatch(key):
            raise InputError(
                f"--coordinator {shown(text)} is not NAME=KEY: a name of yours, and a key of 64 digits, 0 to 9 and "
                "a to f; ask the coordinator for it"
            )
        if name in named or key in named.values():
            raise InputError(f"--coordinator {shown(text)}: that name or that key stands there twice")
        named[name] = key
    return Policy(coordinators=named)


@click.command("init")
@click.argument("site_dir", type=click.Path(path_type=Path))
@click.option("--site", help="The site's name, as studies have it.")
@click.option(
    "--coordinator", "coordinators", multiple=True, metavar="NAME=KEY", help="Who may ask, and the public key."
)
@click.option(
    "--request", type=click.Path(path_type=Path), help="Write the request that the coordinator is sent, to this file."
)
def command(site_dir: Path, site: str | None, coordinators: tuple[str, ...], request: Path | None) -> None:
    """Make a SITE_DIR: keys, an empty ledger, node.toml, and a policy.toml that allows nothing yet.

    Every key of both files is explained in the file. What is not said is asked for where a person sits at a terminal.
    Nothing is overwritten. Keep a backup of the whole folder: secret.key, identity.key and ledger.sqlite cannot be made
    anew.

    A coordinator needs no name here where its welcome is to bring it: with --request a file is written that the
    coordinator is sent; it holds public keys alone.

    Example: undertone node init /srv/undertone/site --site north --request north.request
    """
    name = site or typed("--site", "name of this site (small letters, digits, - and _)")
    if coordinators or request is not None:
        keys = coordinators
    else:
        keys = tuple(typed("--coordinator", "coordinators, each NAME=KEY").split())
    if request is not None:
        refuse_there(request)
    made = init_site(site_dir, name, keys)
    out.print(f"{made.config.site}: {made.folder} is made, readable by you alone", soft_wrap=True, markup=False)
    if request is not None:
        write_request_file(made, request)
        lines([("send the coordinator", request)])
    lines(
        [
            ("tell the coordinator this site's public key", public_hex(made.identity())),
            ("say what the site allows", made.folder / "policy.toml"),
            ("add its images", f"undertone node data add {made.folder} NAME FOLDER ..."),
        ]
    )
