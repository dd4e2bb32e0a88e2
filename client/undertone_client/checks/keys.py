"""Checks of keys: they are there, nobody else can read them, and the others know them."""

import stat
from pathlib import Path

from undertone.core.keys import public_hex
from undertone.errors import FolderError, NotApproved
from undertone.preflight.verdict import Verdict, failed, passed, warned
from undertone_client.checks.inspection import Inspection

_NAMES = ("secret.key", "identity.key")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keys(inspection: Inspection) -> Verdict:
    """The node's secret and the site's identity: whole, their owner's alone, and the ones that the federation names."""
    site = inspection.site
    try:
        site.secret()
        identity = site.identity()
    except FolderError as error:
        sentence = "secret.key or identity.key is missing or damaged"
        return failed("keys", sentence, "restore both from your backup; a new secret is a new site", [str(error)])
    for name in _NAMES:
        if _mode(site.folder / name) & _OTHERS:
            remedy = f"chmod 600 {name} in SITE_DIR, and find out who could read it"
            return failed("keys", f"{name} can be used by others on this machine", remedy)
    own = public_hex(identity)
    for name in site.policy.federations:
        try:
            federation = site.pinned_federation(name)
        except NotApproved as error:
            sentence = f"the federation manifest of {name} is not the one that this site approved"
            return failed("keys", sentence, "ask the coordinator for that manifest", [str(error)])
        if federation.sites.get(site.config.site) != own:
            sentence = f"the federation manifest of {name} names another key for this site, or none"
            remedy = "restore identity.key from your backup, or ask the coordinator for a new manifest"
            return failed("keys", sentence, remedy)
    if _mode(site.folder) & _OTHERS:
        return warned("keys", "SITE_DIR can be opened by others on this machine", "chmod 700 SITE_DIR")
    return passed("keys", "secret and identity are there, for their owner alone; neither has an expiry")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
