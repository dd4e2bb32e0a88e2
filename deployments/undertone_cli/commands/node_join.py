"""`undertone node request | join`: how a site gets into a federation. No private key leaves."""

from pathlib import Path

import click

from undertone.core.clock import utc_now
from undertone.core.durable import storage_errors, write_durable
from undertone.core.flower_keys import create_flower_key, public_flower_key
from undertone.core.joining import LARGEST_WELCOME, site_request
from undertone.core.keys import create_key, load_key, public_hex
from undertone.core.text import shown
from undertone.errors import FolderError, InputError
from undertone_cli.console import lines, out
from undertone_client.site.folder import SiteDir
from undertone_client.site.joining import joining

_TYPED = 8
site_dir = click.argument("site_dir", type=click.Path(path_type=Path))


@click.command("request")
@site_dir
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--new-keys", is_flag=True, help="Ask with new keys, which hold once a welcome that names them is joined."
)
def request(site_dir: Path, file: Path, new_keys: bool) -> None:
    """Write the request that a coordinator is sent: this site's name and public keys, signed.

    The same request does for every coordinator. A site that was made by an earlier version gets its key for Flower now.

    With --new-keys both keys are made anew. Until `undertone node join` takes a welcome that names them the old ones
    hold; from then on every other coordinator must be sent the same request as well.

    Example: undertone node request /srv/undertone/site north.request
    """
    site = SiteDir(site_dir)
    refuse_there(file)
    key = write_request_file(site, file, new_keys=new_keys)
    out.print(f"{site.config.site}: {file} is written; send it to the coordinator", soft_wrap=True, markup=False)
    lines([("and tell it by another way this site's public key", key)])


@click.command("join")
@site_dir
@click.argument("welcome", type=click.Path(path_type=Path))
@click.option("--name", help="What policy.toml is to call the coordinator; by default as its federation is called.")
@click.option("--yes-digest", metavar="DIGEST8", help="The first 8 digits of the digest, instead of typing them.")
def join(site_dir: Path, welcome: Path, name: str | None, yes_digest: str | None) -> None:
    """Take a coordinator's WELCOME: see who takes part and with which keys, then pin that.

    Compare the digest with the coordinator's by another way than the file came: whoever could change the one should not
    be able to change the other. A newer welcome, after a site joined or left, is taken by the same command; an older
    one never.

    Example: undertone node join /srv/undertone/site 0002.welcome
    """
    site = SiteDir(site_dir)
    found = joining(site, _read(welcome), name, utc_now())
    digest = found.read.federation.digest
    lines(list(found.summary()))
    typed = yes_digest if yes_digest is not None else _typed()
    if typed.strip() != digest[:_TYPED]:
        raise InputError(f"{shown(typed, _TYPED)} are not the first {_TYPED} digits of the digest; nothing was pinned")
    found.pin()
    out.print(
        f"{site.config.site} has joined: manifest {found.read.federation.serial} of {found.name} is pinned",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def write_request_file(site: SiteDir, file: Path, *, new_keys: bool = False) -> str:
    """Write a site's request and return the public key in it; make its Flower key first where it has none.

    Args:
        site: the SITE_DIR.
        file: where the request goes.
        new_keys: whether to ask with keys that are made now, or were for an earlier request, and do not hold yet.

    Raises:
        FolderError: a key is damaged, or the file cannot be written.
    """
    (following, flower_path), identity = site.next_keys, None
    if new_keys:
        identity = load_key(following) if following.exists() else create_key(following)
    else:
        identity, flower_path = site.identity(), site.flower_key
    flower = public_flower_key(flower_path) if flower_path.exists() else create_flower_key(flower_path)
    write_durable(file, site_request(site.config.site, identity, flower))
    return public_hex(identity)


def refuse_there(file: Path) -> None:
    """Raise FolderError where a file is there already."""
    if file.exists():
        raise FolderError(f"{file} exists already; name another file for the request")


def _read(path: Path) -> bytes:
    with storage_errors(path), path.open("rb") as stream:
        return stream.read(LARGEST_WELCOME + 1)


def _typed() -> str:
    answer: str = click.prompt(f"To join, type the first {_TYPED} digits of the digest, as the coordinator says them")
    return answer
