"""Checks of COORDINATOR_DIR: keys, certificates, the manifest, the studies in it, and the machine that it lies on."""

import shutil
import stat
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

from cryptography import x509

from undertone.core.clock import moment
from undertone.core.code_digest import check_package
from undertone.core.durable import read_bytes
from undertone.core.joining import ca_sha256
from undertone.errors import FolderError, NotApproved, PlanChanged
from undertone.preflight import fleet_checks, surroundings
from undertone.preflight.fleet_checks import SOON
from undertone.preflight.verdict import Verdict, failed, first_fault, passed, warned
from undertone_server.checks.inspection import Inspection
from undertone_server.home.membership import accepted
from undertone_server.run_folder import RunFolder
from undertone_server.status import read_status
from undertone_server.studies.standing import OVER, runs_of

# No clock that is right shows an earlier year than this version was made in.
_EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(minutes=5)
_SET_CLOCK = "set this machine's clock (NTP): sites are refused whose clocks differ from it by seconds"
_LEAST_FREE, _FREE = 64 << 20, 1 << 30
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_RENEW = "`undertone coordinator manifest --renew`, and send the welcome to every site"


def clock(inspection: Inspection) -> Verdict:
    """Against the year of this version, the files here, and the server that sites see."""
    if inspection.now < _EARLIEST:
        return failed("clock", "the clock shows a time before this version was made", _SET_CLOCK)
    home = inspection.home
    files = [home.key_file, home.ca, *home.manifests.glob("*.json"), *home.sites.glob("*.json")]
    ahead = [path.name for path in files if path.is_file() and _time_of(path) > inspection.now + _AHEAD]
    if ahead:
        sentence = "the clock shows a time before files of COORDINATOR_DIR were written"
        return warned("clock", sentence, _SET_CLOCK, [f"{name} has a later time" for name in ahead])
    if inspection.seen.fault:
        return passed("clock", "the clock agrees with COORDINATOR_DIR's own files; its server's clock was not asked")
    return fleet_checks.clocks("clock", "the fleet address", inspection.seen)


def _time_of(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def keys(inspection: Inspection) -> Verdict:
    """The signing key is there, and nobody else on this machine can use any key."""
    home = inspection.home
    try:
        home.key()
    except FolderError as error:
        remedy = "restore it from your backup; a new one is another coordinator to every site"
        return failed("keys", "coordinator.key is missing or damaged", remedy, [str(error)])
    tls = [home.folder / home.settings.certificate_key, *sorted((home.folder / "tls").glob("*.key"))]
    for path in [home.key_file, *home.folder.glob("coordinator.key.*"), *tls]:
        if path.is_file() and _mode(path) & _others(path, home.folder):
            remedy = f"chmod 600 {path.name}, and find out who could read it"
            return failed("keys", f"{path.name} can be used by others on this machine", remedy)
    if _mode(home.folder) & _OTHERS:
        return warned("keys", "COORDINATOR_DIR can be opened by others on this machine", "chmod 700 COORDINATOR_DIR")
    return passed("keys", "all keys are there, for their owner alone; none of the signing keys has an expiry")


def _others(path: Path, folder: Path) -> int:
    """Rights that a key must not give: one's own certificate's may be a group's, as /etc/ssl/private's are."""
    return _OTHERS if path.is_relative_to(folder) else stat.S_IRWXO


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def certificates(inspection: Inspection) -> Verdict:
    """Sites and nginx take them, and will for a while."""
    home = inspection.home
    own = home.folder / home.settings.certificate
    named = {"that sites see": own, "of the CA": home.ca, "of the SuperLink": home.folder / "tls" / "loopback.crt"}
    return first_fault([_lasts(what, path, inspection.now) for what, path in named.items()] + [_serve(inspection)])


def _lasts(what: str, path: Path, now: datetime) -> Verdict:
    name, which = "certificates", f"the certificate {what}"
    try:
        chain = x509.load_pem_x509_certificates(read_bytes(path))
    except (ValueError, FolderError) as error:
        return failed(name, f"{which} is missing or damaged", "restore it from your backup", [str(error)])
    last = min(one.not_valid_after_utc for one in chain)
    details = [f"{path.name} lasts until {last:%Y-%m-%d}"]
    remedy = f"`undertone coordinator rotate {'ca' if what == 'of the CA' else 'certificate'}`, or renew your own"
    if last <= now:
        return failed(name, f"{which} has expired", remedy, details)
    if last < now + SOON:
        return warned(name, f"{which} expires within a month", remedy, details)
    return passed(name, "all certificates serve, and last for a month and more", details)


def _serve(inspection: Inspection) -> Verdict:
    try:
        inspection.home.check_certificates()
    except FolderError as error:
        sentence = "a certificate, its key, its CA and the fleet address do not belong together"
        remedy = "`undertone coordinator rotate certificate`, or your own of that host; --details says which"
        return failed("certificates", sentence, remedy, [str(error)])
    return passed("certificates", "all certificates serve, and last for a month and more")


def manifest(inspection: Inspection) -> Verdict:
    """It holds, for a while yet, and says what is so: the sites, the key, the CA."""
    home, name = inspection.home, "manifest"
    try:
        federation = home.federation()
    except FolderError as error:
        sentence = "there is no federation manifest yet, or it cannot be read"
        return failed(name, sentence, "accept two sites or more: `undertone coordinator add-node`", [str(error)])
    except NotApproved as error:
        return failed(name, "the newest federation manifest is not that of coordinator.key", _RENEW, [str(error)])
    details = [f"manifest {federation.serial} of {federation.name}, until {federation.expires}"]
    ends = moment(federation.expires)
    if ends <= inspection.now:
        return failed(name, "the federation manifest has expired: sites refuse every study", _RENEW, details)
    if dict(federation.sites) != {site: request.identity for site, request in accepted(home).items()}:
        return failed(name, "the federation manifest names other sites or keys than are accepted", _RENEW, details)
    if federation.ca_sha256 != ca_sha256(read_bytes(home.ca).decode("ascii", "replace")):
        return failed(name, "the federation manifest names another CA than is used", _RENEW, details)
    if ends < inspection.now + SOON:
        return warned(name, "the federation manifest expires within a month", _RENEW, details)
    return passed(name, "the federation manifest says what is so, and holds for a month and more", details)


def code(inspection: Inspection) -> Verdict:
    """Studies that are not over name the code that is installed."""
    going = [run for run in runs_of(inspection.home) if not _over(run)]
    for run in going:
        try:
            plan = run.plan()
            plan.check_version()
            check_package(plan.package_sha256)
        except PlanChanged as error:
            sentence = f"the plan of {run.folder.name} names other code, or another protocol, than is installed here"
            remedy = "install the version that the plan names to go on with it, or plan anew"
            return failed("code", sentence, remedy, [str(error)])
    good = "the installed code is what the studies under way name" if going else "no study is under way"
    return passed("code", good)


def _over(run: RunFolder) -> bool:
    """Whether nobody will go on with a study."""
    status = read_status(run)
    return run.release.exists() or run.unreleased.exists() or (status is not None and status.state in OVER)


def flower(_: Inspection) -> Verdict:
    """Flower is a version that this one was made for."""
    return surroundings.flower(version("flwr"))


def disk(inspection: Inspection) -> Verdict:
    """Room for ledgers, sums and releases."""
    free = shutil.disk_usage(inspection.home.folder).free
    details = [f"{free} bytes free"]
    if free < _LEAST_FREE:
        return failed("disk", "the disk of COORDINATOR_DIR is full", "make room on it", details)
    if free < _FREE:
        return warned("disk", "the disk of COORDINATOR_DIR is nearly full", "make room on it", details)
    return passed("disk", "the disk of COORDINATOR_DIR has room", details)
