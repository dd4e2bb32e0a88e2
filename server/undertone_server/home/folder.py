"""COORDINATOR_DIR: everything that a coordinator owns, in one folder.

coordinator.toml    name, address, ports, where the certificate lies, how long certificates and manifests last
coordinator.key     the one key that signs plans, releases and manifests (0600); coordinator.pub its public half;
                    coordinator.key.before: the one that it took the place of, which vouches for it
tls/                ca.key ca.crt server.key server.crt: none of the keys where a certificate of one's own is used;
                    loopback.key loopback.crt: the SuperLink's, which nginx alone sees
federation/         NNNN.json NNNN.sig: the manifests by serial; the newest holds. NNNN.welcome: what sites are sent
sites/              NAME.json: the request of each site that was accepted; retired/: those whose keys were taken back
superlink/          state.db: Flower's state; flower/: the configuration of Flower's CLI
nginx/              undertone.conf: the server that sites reach; standalone.conf runs it without Debian's files
runs/               NAME-DIGEST8: a RUN of each study
"""

import os
import shutil
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from undertone.core.canonical import sha256_hex
from undertone.core.clock import utc_now
from undertone.core.config import parse_tables, read_tables
from undertone.core.durable import storage_errors, write_durable
from undertone.core.federation import Federation, read_federation
from undertone.core.keys import create_key, load_key, public_hex, write_secret
from undertone.core.settings_file import settings_toml
from undertone.errors import FolderError, NotApproved, StudyError
from undertone_server.home import flower_files
from undertone_server.home.certificates import check_handshake, load_ca, make_ca, make_certificate
from undertone_server.home.nginx import server_conf, standalone_conf
from undertone_server.home.settings import Settings

_SETTINGS = "coordinator.toml"
_VARIABLE = "UNDERTONE_HOME"
_MANIFESTS = "[0-9][0-9][0-9][0-9]*.json"


def default_folder() -> Path:
    """Where a COORDINATOR_DIR lies that nobody names: $UNDERTONE_HOME, else ~/.undertone."""
    named = os.environ.get(_VARIABLE, "")
    return Path(named) if named else Path.home() / ".undertone"


class Home:
    """Paths, settings and keys of one COORDINATOR_DIR."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.connection = flower_files.CONNECTION
        """The name of the SuperLink in Flower's configuration, as `flwr run APP NAME` takes it."""

    @classmethod
    def create(cls, folder: Path, settings: Settings, now: datetime | None = None) -> "Home":
        """Make a COORDINATOR_DIR: signing key, certificates, configuration of SuperLink and nginx.

        A CA and a server certificate are made where `settings` names those of tls/; a certificate of one's own must
        be there already, and is tried.

        Raises:
            FolderError: something is there already, cannot be written, or the own certificate does not serve.
        """
        try:
            folder.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            raise FolderError(
                f"{folder} exists already, and a coordinator's folder is never overwritten; name another with --home"
            ) from None
        except OSError as error:
            raise FolderError(f"{folder} cannot be made: {error.strerror}; make room or fix the rights") from None
        home = cls(folder.resolve(), settings)
        try:
            home._fill(now or utc_now())
        except BaseException:
            shutil.rmtree(folder)
            raise
        return home

    @classmethod
    def open(cls, folder: Path) -> "Home":
        """Open a COORDINATOR_DIR.

        Raises:
            FolderError: it is none, or coordinator.toml is wrong.
        """
        path = folder / _SETTINGS
        if not path.is_file():
            raise FolderError(
                f"{folder} is no COORDINATOR_DIR: it has no {_SETTINGS}; `undertone coordinator init` makes one, and "
                "--home or UNDERTONE_HOME names one that is elsewhere"
            )
        try:
            settings = parse_tables(Settings, read_tables(path), str(path))
        except StudyError as error:
            raise FolderError(str(error)) from None
        return cls(folder.resolve(), settings)

    @property
    def runs(self) -> Path:
        """runs/."""
        return self.folder / "runs"

    @property
    def sites(self) -> Path:
        """sites/."""
        return self.folder / "sites"

    @property
    def manifests(self) -> Path:
        """federation/."""
        return self.folder / "federation"

    @property
    def ca(self) -> Path:
        """The CA certificate by which sites know the server."""
        return self.folder / self.settings.ca

    @property
    def loopback_ca(self) -> Path:
        """The certificate by which nginx and Flower's CLI know the SuperLink."""
        return self.folder / "tls" / ("ca.crt" if self.ca_is_ours else "loopback.crt")

    @property
    def ca_is_ours(self) -> bool:
        """Whether the CA was made here, and not by others for a certificate of one's own."""
        return self.settings.ca == "tls/ca.crt"

    @property
    def key_file(self) -> Path:
        """coordinator.key."""
        return self.folder / "coordinator.key"

    def key(self) -> Ed25519PrivateKey:
        """The coordinator's signing key.

        Raises:
            FolderError: the file is missing or damaged.
        """
        return load_key(self.key_file)

    def key_before(self) -> Ed25519PrivateKey | None:
        """The signing key before this one, which vouches for it; None where it never was replaced."""
        path = self.folder / "coordinator.key.before"
        return load_key(path) if path.is_file() else None

    def federation(self) -> Federation:
        """The newest manifest, whether or not it has expired.

        Raises:
            FolderError: there is none yet: fewer than two sites are in.
            NotApproved: it is damaged, or not signed by this coordinator.
        """
        federation = self.newest_manifest()
        if federation is None:
            raise FolderError(
                f"{self.folder} has no federation manifest yet: a federation has two sites or more; accept their "
                "requests with `undertone coordinator add-node`"
            )
        if federation.coordinator != public_hex(self.key()):
            raise NotApproved(
                f"manifest {federation.serial} names the signing key before this one; make a new manifest with "
                "`undertone coordinator manifest --renew`"
            )
        return federation

    def newest_manifest(self) -> Federation | None:
        """The newest manifest, or None before there was one; it may be one of the signing key before.

        Raises:
            NotApproved: it is damaged, or not signed by this coordinator.
        """
        found = sorted(self.manifests.glob(_MANIFESTS), key=lambda path: int(path.stem))
        if not found:
            return None
        try:
            data, signature = found[-1].read_bytes(), found[-1].with_suffix(".sig").read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            raise FolderError(f"{found[-1]} or its signature cannot be read; restore both") from None
        federation = read_federation(data, signature, sha256_hex(data))
        keys = [key for key in (self.key(), self.key_before()) if key is not None]
        if federation.coordinator not in map(public_hex, keys):
            raise NotApproved(f"{found[-1]} names another coordinator than coordinator.key; restore both")
        return federation

    def superlink_command(self) -> list[str]:
        """The arguments that start the SuperLink, its program first."""
        return flower_files.superlink_argv(
            port=self.settings.superlink_port,
            health_port=self.settings.health_port,
            certificate=self.folder / "tls" / "loopback.crt",
            key=self.folder / "tls" / "loopback.key",
            ca=self.loopback_ca,
            database=self.folder / "superlink" / "state.db",
        )

    def nginx_command(self) -> list[str]:
        """The arguments that start nginx in the foreground, its program first."""
        folder = self.folder / "nginx"
        return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(folder / "standalone.conf")]

    def flower_environment(self) -> dict[str, str]:
        """The environment of the SuperLink and of `flwr`."""
        return flower_files.environment(self.folder / "superlink" / "flower")

    def _fill(self, now: datetime) -> None:
        for name in ("tls", "federation", "sites", "superlink", "superlink/flower", "nginx", "nginx/tmp", "runs"):
            with storage_errors(self.folder):
                (self.folder / name).mkdir(mode=0o700)
        key = create_key(self.folder / "coordinator.key")
        write_durable(self.folder / "coordinator.pub", f"{public_hex(key)}\n".encode())
        self.make_certificates(now)
        self.write_configuration()
        write_durable(self.folder / _SETTINGS, settings_toml(self.settings))

    def make_certificates(self, now: datetime, *, new_ca: bool = True) -> None:
        """Make the certificates that are made here, in the place of those that are there, and try all of them.

        Args:
            now: the time.
            new_ca: whether to make a CA as well, where it is made here.

        Raises:
            FolderError: the CA's key is missing, or the certificate does not serve the fleet's host.
        """
        settings, tls, ca = self.settings, self.folder / "tls", None
        if self.ca_is_ours:
            if new_ca:
                made = make_ca(settings.name, settings.ca_days, now)
                _write_pair(tls / "ca", made.certificate_pem, made.key_pem)
            ca = load_ca(tls / "ca.crt", tls / "ca.key")
            server = make_certificate([settings.address.host], settings.certificate_days, now, ca)
            _write_pair(tls / "server", server.certificate_pem, server.key_pem)
        days = settings.certificate_days if ca else settings.ca_days
        loopback = make_certificate(flower_files.LOOPBACK, days, now, ca)
        _write_pair(tls / "loopback", loopback.certificate_pem, loopback.key_pem)
        self.check_certificates()

    def check_certificates(self) -> None:
        """Raise FolderError unless sites and nginx would take the certificates."""
        settings, tls = self.settings, self.folder / "tls"
        certificate, key = self.folder / settings.certificate, self.folder / settings.certificate_key
        check_handshake(self.ca, certificate, key, settings.address.host)
        check_handshake(self.loopback_ca, tls / "loopback.crt", tls / "loopback.key", "127.0.0.1")

    def write_configuration(self) -> None:
        """Write what nginx and Flower's CLI read, from coordinator.toml.

        Raises:
            FolderError: it cannot be written.
        """
        nginx, settings = self.folder / "nginx", self.settings
        certificate, key = self.folder / settings.certificate, self.folder / settings.certificate_key
        try:
            server = server_conf(settings.address, settings.superlink_port, certificate, key, self.loopback_ca)
            connection = flower_files.connection_toml(settings.superlink_port, self.loopback_ca)
        except ValueError as error:
            raise FolderError(f"{self.folder} cannot stand in a configuration: {error}; name another") from None
        write_durable(nginx / "undertone.conf", server.encode())
        write_durable(nginx / "standalone.conf", standalone_conf(nginx).encode())
        write_durable(self.folder / "superlink" / "flower" / "config.toml", connection)


def _write_pair(stem: Path, certificate: bytes, key: bytes) -> None:
    """NAME.crt and NAME.key, the key first and for its owner alone, in the place of those that are there."""
    path, new = stem.with_suffix(".key"), stem.with_suffix(".key.new")
    new.unlink(missing_ok=True)  # of a command that was interrupted
    write_secret(new, key)
    with storage_errors(path):
        new.replace(path)
    write_durable(stem.with_suffix(".crt"), certificate)
