"""New keys and certificates in the place of old ones, of which sites learn by the next welcome.

Each step can be interrupted: the same command again finishes it.
"""

from datetime import datetime

from undertone.core.durable import storage_errors, sync, write_durable
from undertone.core.keys import create_key, load_key, public_hex
from undertone.errors import InputError
from undertone_server.home.folder import Home
from undertone_server.home.membership import Change, alone, next_manifest


def rotate_certificate(home: Home, now: datetime) -> None:
    """A new server certificate by the same CA, and a new one of the SuperLink's; sites notice nothing.

    Raises:
        FolderError: the CA's key is missing, or the certificates do not serve.
    """
    with alone(home):
        home.make_certificates(now, new_ca=False)


def rotate_ca(home: Home, now: datetime) -> Change:
    """A new CA, certificates by it, and a manifest with its fingerprint.

    Sites cannot reach the coordinator from the moment its servers use the new certificate until they took the welcome.

    Raises:
        InputError: the CA is not one that was made here.
    """
    if not home.ca_is_ours:
        raise InputError(
            f"the CA {home.ca} was not made here: put the new certificate, its key and its CA where coordinator.toml "
            "says, then `undertone coordinator manifest --renew`"
        )
    with alone(home):
        home.make_certificates(now, new_ca=True)
        return next_manifest(home, now)


def rotate_key(home: Home, now: datetime) -> Change:
    """A new signing key, for which the one before vouches in every welcome, and a manifest that names it.

    Plans that were signed by the key before stay its own: studies that run end with it, or are submitted anew.
    """
    with alone(home):
        key, new, before = (home.folder / f"coordinator.key{end}" for end in ("", ".new", ".before"))
        manifest = home.newest_manifest() if key.is_file() else None
        if manifest is None or manifest.coordinator == public_hex(load_key(key)):
            if not new.is_file():
                create_key(new)
            with storage_errors(home.folder):
                if key.is_file():
                    key.replace(before)
                new.replace(key)
                sync(home.folder)
        write_durable(home.folder / "coordinator.pub", f"{public_hex(load_key(key))}\n".encode())
        return next_manifest(home, now)
