"""Certificates of the coordinator's servers, made and checked by libraries: ECDSA over P-256, TLS 1.2 and up."""

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from undertone.core.durable import read_bytes
from undertone.core.text import shown
from undertone.errors import FolderError

# Clocks differ: a certificate holds from a little before it was made.
_EARLIER = timedelta(hours=1)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_CIPHERS_FROM = ssl.TLSVersion.TLSv1_2


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as PEM, not encrypted: a server reads it when it starts."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_ca(name: str, days: int, now: datetime) -> Pair:
    """A CA that signs certificates of servers and no other CA's.

    Args:
        name: the federation's.
        days: how long it lasts.
        now: the time.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"undertone {name} CA {now:%Y-%m-%d}")
    builder = _builder(subject, subject, key, days, now).add_extension(x509.BasicConstraints(True, 0), critical=True)
    builder = builder.add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    return Pair(builder.sign(key, SHA256()), key)


def make_certificate(hosts: Sequence[str], days: int, now: datetime, ca: Pair | None) -> Pair:
    """A server's certificate.

    Args:
        hosts: names and IP addresses under which the server is reached, the first also as its common name.
        days: how long it lasts; at most as long as the CA.
        now: the time.
        ca: which signs it; None: it signs itself, and who trusts it trusts this certificate alone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject, signer = _name(hosts[0]), ca.key if ca else key
    builder = _builder(subject, ca.certificate.subject if ca else subject, key, days, now)
    if ca is not None:
        lasts = min(now + timedelta(days=days), ca.certificate.not_valid_after_utc)
        builder = _builder(subject, ca.certificate.subject, key, days, now, lasts)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(_usage("digital_signature"), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    return Pair(builder.sign(signer, SHA256()), key)


def load_ca(certificate: Path, key: Path) -> Pair:
    """A CA that was made here.

    Raises:
        FolderError: one of the files is missing or damaged.
    """
    try:
        private = load_pem_private_key(read_bytes(key), None)
    except (TypeError, ValueError):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise FolderError(f"{key} is not a readable private key of a CA; restore it from your backup")
    return Pair(load_certificate(certificate), private)


def load_certificate(path: Path) -> x509.Certificate:
    """The one certificate of a PEM file.

    Raises:
        FolderError: the file holds none, or several.
    """
    try:
        found = x509.load_pem_x509_certificates(read_bytes(path))
    except ValueError:
        found = []
    if len(found) != 1:
        raise FolderError(f"{path} holds {len(found) or 'no'} certificates in PEM form; it must hold exactly one")
    return found[0]


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER form, 64 hexadecimal characters."""
    return certificate.fingerprint(SHA256()).hex()


def check_handshake(ca: Path, certificate: Path, key: Path, host: str) -> None:
    """Shake hands as a site would, in memory: key, chain, name and dates are then what TLS makes of them.

    Args:
        ca: what the site trusts.
        certificate: the server's, with intermediate certificates behind it where there are any.
        key: its private key.
        host: the name or IP address that the site calls.

    Raises:
        FolderError: says what does not hold.
    """
    try:
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server.minimum_version = client.minimum_version = _CIPHERS_FROM
        server.load_cert_chain(certificate, key, password=_no_password)
        client.load_verify_locations(ca)
        _shake_hands(server, client, host)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        raise FolderError(
            f"{certificate} with {key} does not serve {host} for whoever trusts {ca}: {shown(str(why))}; bring a "
            "certificate for that host, its key, and the CA that signed it"
        ) from None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(8):  # a handshake of TLS takes two or three turns
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
    if sides:
        raise ValueError("the handshake does not end")


def _no_password() -> str:
    raise ValueError("the private key is encrypted; a server that starts by itself needs one that is not")


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    now: datetime,
    last: datetime | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(last or now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _usage(*allowed: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in allowed for usage in _USAGES})


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
