"""`undertone coordinator add-node | remove-node | manifest | sync | rotate`: who is in the federation."""

from collections.abc import Sequence
from pathlib import Path

import click

from undertone.core.clock import utc_now
from undertone.core.durable import storage_errors
from undertone.core.joining import LARGEST_REQUEST
from undertone.errors import SuperLinkUnreachable
from undertone_cli.commands.coordinator_home import home_option, opened
from undertone_cli.console import confirmed, lines, out
from undertone_server.home.fleet import Registered, synchronise
from undertone_server.home.folder import Home
from undertone_server.home.membership import Change, accepted, add_sites, issue, remove_site, write_welcome
from undertone_server.home.rotation import rotate_ca, rotate_certificate, rotate_key


@click.command("add-node")
@click.argument("requests", nargs=-1, required=True, type=click.Path(path_type=Path))
@home_option
@click.option("--replace", is_flag=True, help="A site that is in has other keys now, and has told you so itself.")
def add_node(requests: tuple[Path, ...], folder: Path | None, replace: bool) -> None:
    """Accept sites by their REQUEST files, and write the welcome that every site of the federation is sent.

    Compare each site's public key with what the site tells you by another way. Several at once make one manifest.
    Where the SuperLink runs, it learns the new keys at once; else when it is started.

    Example: undertone coordinator add-node north.request east.request
    """
    home = opened(folder)
    change = add_sites(home, [_read(path) for path in requests], utc_now(), replace=replace)
    _show(home, change)
    _register(home)


@click.command("remove-node")
@click.argument("site")
@home_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_node(site: str, folder: Path | None, yes: bool) -> None:
    """Take SITE out of the federation: a new manifest without it, and its key unregistered at the SuperLink.

    Sites that take the new welcome answer it no more, nor any study that has it on its roster.

    Example: undertone coordinator remove-node north
    """
    home = opened(folder)
    if not yes:
        confirmed(f"Is {site} to take part no longer?")
    change = remove_site(home, site, utc_now())
    _show(home, change)
    _register(home)


@click.command("manifest")
@home_option
@click.option("--renew", is_flag=True, help="Make a new one, for another term or of the sites that are in now.")
def manifest(folder: Path | None, renew: bool) -> None:
    """Show the newest federation manifest and where its welcome is; --renew it before it expires.

    Example: undertone coordinator manifest --renew
    """
    home = opened(folder)
    if renew:
        _show(home, issue(home, utc_now(), anew=True))
        return
    federation = home.federation()
    _show(home, Change(federation, write_welcome(home, federation)))
    federation.check_current(utc_now())


@click.command("sync")
@home_option
def sync(folder: Path | None) -> None:
    """Register at the running SuperLink the keys of all sites that are in, and unregister all others.

    Example: undertone coordinator sync
    """
    say_registered(synchronise(opened(folder)))


@click.command("rotate")
@click.argument("what", type=click.Choice(["certificate", "ca", "key"]))
@home_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def rotate(what: str, folder: Path | None, yes: bool) -> None:
    """Replace the server's certificate, the CA that signed it, or the signing key.

    A new certificate by the same CA needs nothing at the sites. After a new CA or signing key every site takes the new
    welcome; until then it does not reach the servers, or takes no plan that the new key signed. Restart SuperLink and
    nginx after a new certificate.

    Example: undertone coordinator rotate certificate
    """
    home = opened(folder)
    if what == "certificate":
        rotate_certificate(home, utc_now())
        _say("the certificates are new; restart the SuperLink and nginx")
        return
    if not yes:
        confirmed(f"Is every site to be sent a new welcome for a new {what}?")
    _show(home, (rotate_ca if what == "ca" else rotate_key)(home, utc_now()))


def say_registered(done: Registered) -> None:
    """A line for each key that the SuperLink was told about, and one for those that it knew."""
    for names, what in (
        (done.added, "registered at the SuperLink"),
        (done.removed, "unregistered at the SuperLink"),
        (done.refused, "its key was unregistered once and is never taken again; ask it for `node request --new-keys`"),
    ):
        for name in names:
            _say(f"{name}: {what}")
    _say(f"{len(done.kept)} {'site was' if len(done.kept) == 1 else 'sites were'} registered before")


def _register(home: Home) -> None:
    """Tell the SuperLink, where it runs; the change itself holds in any case."""
    try:
        say_registered(synchronise(home))
    except SuperLinkUnreachable as error:
        _say(f"the SuperLink was not told: {error}")


def _show(home: Home, change: Change) -> None:
    if change.federation is None or change.welcome is None:
        sites = ", ".join(accepted(home)) or "no site"
        _say(f"{sites}: accepted. A federation has two sites or more, so there is no manifest yet")
        return
    federation = change.federation
    rows: Sequence[tuple[str, object]] = [
        ("federation", f"{federation.name}, manifest {federation.serial}, until {federation.expires}"),
        ("digest", federation.digest),
        ("CA certificate, SHA-256", federation.ca_sha256),
        *((f"site {site}", key) for site, key in sorted(federation.sites.items())),
        ("send to every site", change.welcome),
    ]
    lines(rows)


def _read(path: Path) -> bytes:
    with storage_errors(path), path.open("rb") as stream:
        return stream.read(LARGEST_REQUEST + 1)


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
