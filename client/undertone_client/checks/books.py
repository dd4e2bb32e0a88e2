"""Checks of what a site keeps for ever: its ledger and its audit log."""

from undertone.errors import AuditLogCorrupt, FolderError, LedgerCorrupt, LedgerUnavailable
from undertone.preflight.verdict import Verdict, failed, passed, warned
from undertone.privacy.ledger import Ledger
from undertone_client.checks.inspection import Inspection
from undertone_client.site.audit_chain import verify_chain

_RESTORE_LEDGER = "keep the file as evidence and restore the newest backup; never begin a new ledger"


def ledger(inspection: Inspection) -> Verdict:
    """It opens, its chain holds, and it is this site's."""
    site = inspection.site
    try:
        with Ledger.open(site.ledger, read_only=True) as opened:
            header, head = opened.header, opened.head
    except LedgerUnavailable as error:
        sentence = "the ledger is missing, or cannot be read now"
        remedy = "free the file or fix its rights; if it is gone, restore the newest backup"
        return failed("ledger", sentence, remedy, [str(error)])
    except LedgerCorrupt as error:
        return failed("ledger", "the ledger's chain does not hold", _RESTORE_LEDGER, [str(error)])
    if header.get("site") != site.config.site:
        return failed("ledger", "the ledger is that of another site", _RESTORE_LEDGER)
    return passed("ledger", "the ledger opens, and its chain holds", [f"its head: {head}"])


def audit_log(inspection: Inspection) -> Verdict:
    """Its chain holds over all its files."""
    name, site = "audit log", inspection.site
    if not (site.folder / "audit").exists():
        remedy = "none, if this site was just made; else restore audit/ from your backup"
        return warned(name, "there is no audit log yet", remedy)
    try:
        found = verify_chain(site.folder)
    except (AuditLogCorrupt, FolderError) as error:
        remedy = "run `undertone log verify`, keep the files as evidence, and compare them with your backup"
        return failed(name, "the audit log's chain does not hold, or it cannot be read", remedy, [str(error)])
    details = [f"its newest hash, to keep elsewhere: {found.newest}"]
    if found.site != site.config.site:
        return failed(name, "the audit log is that of another site", "restore audit/ from your backup", details)
    if found.cut:
        sentence = "the last line of the audit log was cut off, as by a power cut or a full disk"
        return warned(name, sentence, "nothing, if it was one: the next line begins a new file", details)
    return passed(name, "the audit log's chain holds", details)
