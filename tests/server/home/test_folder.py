"""A COORDINATOR_DIR is made whole, for its owner alone; its certificates serve, and nothing is overwritten."""

import ssl
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from undertone.core.clock import utc_now
from undertone.core.keys import public_hex
from undertone.errors import FolderError
from undertone_server.home import certificates
from undertone_server.home.certificates import check_handshake, load_ca, make_ca, make_certificate
from undertone_server.home.flower_files import environment
from undertone_server.home.folder import Home
from undertone_server.home.settings import Settings

SETTINGS = Settings(name="hub", fleet="https://hub.example.org:8443")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "home", SETTINGS)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_made_and_opened(home: Home) -> None:
    again = Home.open(home.folder)
    assert again.settings == SETTINGS
    assert (home.folder / "coordinator.pub").read_text() == f"{public_hex(again.key())}\n"
    with pytest.raises(FolderError, match="two sites"):
        again.federation()
    assert again.runs.is_dir()


def test_private_keys_are_their_owners_alone(home: Home) -> None:
    keys = sorted(path.name for path in home.folder.rglob("*.key"))
    assert keys == ["ca.key", "coordinator.key", "loopback.key", "server.key"]
    assert {mode(path) for path in home.folder.rglob("*.key")} == {0o600}
    assert {mode(path) for path in [home.folder, *home.folder.rglob("*")] if path.is_dir()} == {0o700}


def test_nothing_is_overwritten(home: Home) -> None:
    before = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    with pytest.raises(FolderError, match="exists already"):
        Home.create(home.folder, SETTINGS)
    assert before == {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}


def test_what_was_half_made_is_removed(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="nginx"):
        Home.create(tmp_path / 'a "quoted" folder', SETTINGS)
    assert not list(tmp_path.iterdir())


def test_another_folder_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no COORDINATOR_DIR"):
        Home.open(tmp_path)


def test_settings_are_explained_and_unknown_ones_are_named(home: Home) -> None:
    path = home.folder / "coordinator.toml"
    text = path.read_text(encoding="utf-8")
    assert set(tomllib.loads(text)) == set(Settings.model_fields)
    path.write_text(text.replace("superlink_port", "superlink_prot"), encoding="utf-8")
    with pytest.raises(FolderError, match="did you mean superlink_port"):
        Home.open(home.folder)


@pytest.mark.parametrize(
    "fleet",
    [
        "http://hub.example.org:443",
        "https://hub.example.org",
        "https://hub.example.org:0",
        "https://hub.example.org:70000",
        "https://hub.example.org:443/",
        "https://hub example:443",
        "https://[::1:443",
        "https://[1.2.3.4]:443",
        "https://Hub.example.org:443",
        "https://hub.example.org;:443",
        "hub.example.org:443",
        "https://hub.example.org:9091",
    ],
)
def test_addresses_that_are_none(fleet: str) -> None:
    with pytest.raises(ValueError, match=r"fleet|three ports"):
        Settings(name="hub", fleet=fleet)


@pytest.mark.parametrize(
    ("fleet", "kind", "value"),
    [
        ("https://hub.example.org:443", x509.DNSName, "hub.example.org"),
        ("https://192.0.2.7:443", x509.IPAddress, "192.0.2.7"),
        ("https://[2001:db8::7]:443", x509.IPAddress, "2001:db8::7"),
    ],
)
def test_the_certificate_names_the_fleets_host(tmp_path: Path, fleet: str, kind: type, value: str) -> None:
    home = Home.create(tmp_path / "home", Settings(name="hub", fleet=fleet))
    found = x509.load_pem_x509_certificate((home.folder / "tls" / "server.crt").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name) for name in names.get_values_for_type(kind)] == [value]
    assert len(names) == 1
    usages = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    days = found.not_valid_after_utc - utc_now()
    assert timedelta(days=396) < days <= timedelta(days=397)
    tls = home.folder / "tls"
    with pytest.raises(FolderError, match="does not serve other"):
        check_handshake(tls / "ca.crt", tls / "server.crt", tls / "server.key", "other.example.org")


def test_certificates_pass_the_strict_reading_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    shake_hands, seen = certificates._shake_hands, []

    def strictly(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        shake_hands(server, client, host)
        seen.append(host)

    monkeypatch.setattr(certificates, "_shake_hands", strictly)
    home.check_certificates()
    assert seen == ["hub.example.org", "127.0.0.1"]


def test_the_ca_signs_servers_alone(home: Home) -> None:
    ca = load_ca(home.folder / "tls" / "ca.crt", home.folder / "tls" / "ca.key")
    constraints = ca.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    late = make_certificate(["hub"], 36_500, utc_now(), ca)
    assert late.certificate.not_valid_after_utc == ca.certificate.not_valid_after_utc


class Own:
    """A certificate that somebody else's CA signed, as files."""

    def __init__(self, folder: Path, host: str = "hub.example.org", now: datetime | None = None) -> None:
        folder.mkdir()
        ca = make_ca("theirs", 100, now or utc_now())
        made = make_certificate([host], 30, now or utc_now(), ca)
        self.ca, self.certificate, self.key = (folder / name for name in ("root.crt", "own.crt", "own.key"))
        self.ca.write_bytes(ca.certificate_pem)
        self.certificate.write_bytes(made.certificate_pem)
        self.key.write_bytes(made.key_pem)

    def settings(self) -> Settings:
        paths = {"ca": str(self.ca), "certificate": str(self.certificate), "certificate_key": str(self.key)}
        return Settings(name="hub", fleet="https://hub.example.org:8443", **paths)


def test_a_certificate_of_ones_own(tmp_path: Path) -> None:
    own = Own(tmp_path / "own")
    home = Home.create(tmp_path / "home", own.settings())
    assert sorted(path.name for path in (home.folder / "tls").iterdir()) == ["loopback.crt", "loopback.key"]
    conf = (home.folder / "nginx" / "undertone.conf").read_text()
    assert f'ssl_certificate "{own.certificate}"' in conf
    assert f'proxy_ssl_trusted_certificate "{home.folder}/tls/loopback.crt"' in conf
    assert home.ca == own.ca


@pytest.mark.parametrize("fault", ["host", "expired", "other ca", "other key", "no key", "ca missing"])
def test_a_certificate_of_ones_own_that_does_not_serve(tmp_path: Path, fault: str) -> None:
    other = Own(tmp_path / "other")
    long_ago = datetime(2020, 1, 1, tzinfo=UTC) if fault == "expired" else None
    own = Own(tmp_path / "own", "else.example.org" if fault == "host" else "hub.example.org", long_ago)
    if fault == "other ca":
        own.ca = other.ca
    elif fault == "other key":
        own.key = other.key
    elif fault == "no key":
        own.key.write_bytes(b"")
    elif fault == "ca missing":
        own.ca.unlink()
    with pytest.raises(FolderError, match=r"does not serve hub\.example\.org"):
        Home.create(tmp_path / "home", own.settings())
    assert not (tmp_path / "home").exists()


def test_the_superlink_runs_on_loopback_with_tls_and_node_authentication(home: Home) -> None:
    command = home.superlink_command()
    assert Path(command[0]).name == "flower-superlink"
    for flag in ("--host=127.0.0.1", "--enable-supernode-auth", "--disable-runtime-dependency-installation"):
        assert flag in command
    assert not any("insecure" in flag or "0.0.0.0" in flag for flag in command)


def test_the_environment_of_flower_keeps_to_this_machine(home: Home) -> None:
    flower_home = home.folder / "superlink" / "flower"
    found = environment(flower_home, {"NO_PROXY": "10.0.0.1,localhost", "PATH": "/bin", "HTTPS_PROXY": "http://p"})
    assert found["NO_PROXY"].split(",") == ["10.0.0.1", "localhost", "127.0.0.1", "::1"]
    assert found["FLWR_HOME"] == str(flower_home)
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"
    assert found["PATH"].endswith(":/bin")
    config = tomllib.loads((flower_home / "config.toml").read_text())["superlink"]
    assert config[home.connection]["address"] == "127.0.0.1:9091"
    assert Path(config[home.connection]["root-certificates"]).is_file()


def test_nginx_listens_where_the_fleet_is(tmp_path: Path, home: Home) -> None:
    assert "listen 0.0.0.0:8443 ssl" in (home.folder / "nginx" / "undertone.conf").read_text()
    local = Home.create(tmp_path / "local", Settings(name="hub", fleet="https://localhost:8443"))
    conf = (local.folder / "nginx" / "undertone.conf").read_text()
    assert "listen 127.0.0.1:8443 ssl" in conf
    assert "0.0.0.0" not in conf
