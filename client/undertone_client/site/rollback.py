"""A node's ledger that was put back to an older copy is found out by a coordinator that has seen a newer one.

With each answer goes the site's ledger head, which stands for the ledger's newest entry but for those of files, and
each request brings back the newest head that the coordinator holds. It must be that of an entry in the chain: an older
copy lacks it, and so does a ledger that was begun anew. A head that leaves the site is a MAC under the site's secret,
so it says nothing of the entry, not even to one who could guess it.
"""

import hashlib
import hmac

from undertone.errors import LedgerRestored
from undertone.privacy.ledger import Ledger
from undertone_client.site.newest import FILE

_DOMAIN = b"undertone/1/ledger head\0"


def ledger_head_of(secret: bytes, entry_hash: str) -> str:
    """HMAC-SHA-256 of an entry's hash under the site's secret, hexadecimal."""
    return hmac.new(secret, _DOMAIN + entry_hash.encode(), hashlib.sha256).hexdigest()


def newest_told(ledger: Ledger) -> str:
    """The hash of the newest entry that a coordinator may see the ledger grow by.

    Entries of files are passed over: they say that somebody withdrew, which nobody outside learns (PRIVACY 17).
    """
    return next(entry.hash for entry in reversed(ledger.entries()) if entry.kind != FILE)


def refuse_older(ledger: Ledger, secret: bytes, seen: str) -> None:
    """Insist that the entry whose ledger head the coordinator has seen is in the chain; "" asks nothing.

    Raises:
        LedgerRestored: it is not.
    """
    if seen and all(ledger_head_of(secret, entry.hash) != seen for entry in reversed(ledger.entries())):
        raise LedgerRestored(
            "this site's ledger is an older copy of one that has answered in this study, or another: restore the newest"
        )
