"""How a site joins a federation: its request, and the coordinator's welcome. No private key is in either.

Both are one line of canonical JSON, `{"body": ..., "kind": ..., "signature": hex}`, to be sent by any means: what they
say is signed, and a person compares fingerprints before anything is pinned.
"""

import json
from typing import Annotated, Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import Field, ValidationError

from undertone import PROTOCOL
from undertone.core.canonical import Json, canonical_json, digest_of, sha256_hex
from undertone.core.config import Section
from undertone.core.federation import read_federation
from undertone.core.fleet_address import FleetAddress
from undertone.core.flower_keys import registered_form
from undertone.core.keys import SITE_REQUEST_DOMAIN, WELCOME_DOMAIN, check_signature, public_hex, sign
from undertone.core.text import shown
from undertone.core.unit import is_site_name, name_advice
from undertone.errors import InputError, NotApproved

LARGEST_REQUEST = 1 << 14
LARGEST_WELCOME = 1 << 20
_REQUEST, _WELCOME = "undertone site request 1", "undertone welcome 1"
_BodyT = TypeVar("_BodyT", bound=Section)
_Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class SiteRequest(Section):
    """What a site asks a coordinator: to be in the federation, under this name, with these public keys."""

    protocol: int
    site: Annotated[str, Field(max_length=200)]
    identity: _Key
    flower: Annotated[str, Field(max_length=300)]

    def signed(self, identity: Ed25519PrivateKey) -> bytes:
        """The request file, signed by the site's identity key."""
        return _written(_REQUEST, self, sign(identity, SITE_REQUEST_DOMAIN, digest_of(self.model_dump())))

    @classmethod
    def read(cls, data: bytes) -> "SiteRequest":
        """Read a request file.

        Raises:
            InputError: it is no request, or its name cannot name a site.
            NotApproved: its signature is not by the key that it names, its Flower key is none, or it was written by a
                version of another protocol.
        """
        request, signature, _ = _read(_REQUEST, cls, data, LARGEST_REQUEST)
        if not is_site_name(request.site):
            raise InputError(f"{shown(request.site)} cannot name a site: {name_advice(request.site)}")
        check_signature(request.identity, SITE_REQUEST_DOMAIN, digest_of(request.model_dump()), signature)
        registered_form(request.flower)
        if request.protocol != PROTOCOL:
            raise NotApproved(
                f"{request.site} speaks protocol {request.protocol}, this is protocol {PROTOCOL}; install the same "
                "version on both sides, then write the request anew"
            )
        return request


class Welcome(Section):
    """What a coordinator answers all sites of a federation: who takes part, and where and how to reach it."""

    protocol: int
    coordinator: _Key
    fleet: Annotated[str, Field(max_length=300)]
    ca: Annotated[str, Field(max_length=20_000)]
    manifest: Annotated[str, Field(max_length=1 << 18)]
    manifest_signature: _Signature

    def signed(self, key: Ed25519PrivateKey, before: Ed25519PrivateKey | None = None) -> bytes:
        """The welcome file, signed by the coordinator; by its key before as well, where that was replaced."""
        digest = digest_of(self.model_dump())
        handover = "" if before is None else sign(before, WELCOME_DOMAIN, digest)
        return _written(_WELCOME, self, sign(key, WELCOME_DOMAIN, digest), handover)


class ReadWelcome:
    """A welcome whose signatures hold.

    Attributes:
        welcome: what it says.
        federation: its manifest.
        address: where the coordinator is reached.
    """

    def __init__(self, data: bytes) -> None:
        """Read a welcome file.

        Raises:
            InputError: it is no welcome.
            NotApproved: a signature does not hold, its parts contradict each other, or another protocol.
        """
        welcome, signature, self._handover = _read(_WELCOME, Welcome, data, LARGEST_WELCOME)
        self._digest = digest_of(welcome.model_dump())
        check_signature(welcome.coordinator, WELCOME_DOMAIN, self._digest, signature)
        manifest = welcome.manifest.encode()
        federation = read_federation(manifest, welcome.manifest_signature, sha256_hex(manifest))
        if federation.coordinator != welcome.coordinator or federation.ca_sha256 != ca_sha256(welcome.ca):
            raise NotApproved("the welcome's manifest names another coordinator or another CA; ask for a new welcome")
        if welcome.protocol != PROTOCOL:
            raise NotApproved(
                f"the coordinator speaks protocol {welcome.protocol}, this site protocol {PROTOCOL}; install the same "
                "version on both sides"
            )
        self.welcome, self.federation, self.address = welcome, federation, FleetAddress.parse(welcome.fleet)

    def handed_over_by(self, key: str) -> bool:
        """Whether the coordinator's key before, which this site knows, signed that the new one takes its place."""
        try:
            check_signature(key, WELCOME_DOMAIN, self._digest, self._handover)
        except NotApproved:
            return False
        return True


def site_request(site: str, identity: Ed25519PrivateKey, flower: str) -> bytes:
    """A site's request file.

    Args:
        site: its name.
        identity: its signing key.
        flower: its public Flower key.
    """
    return SiteRequest(protocol=PROTOCOL, site=site, identity=public_hex(identity), flower=flower).signed(identity)


def ca_sha256(pem: str) -> str:
    """SHA-256 of the DER form of the one certificate in a PEM text.

    Raises:
        NotApproved: there is none, or there are several.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        found = []
    if len(found) != 1:
        raise NotApproved("the welcome does not hold exactly one CA certificate; ask the coordinator for a new one")
    return found[0].fingerprint(SHA256()).hex()


def _written(kind: str, body: Section, *signatures: str) -> bytes:
    names = ("signature", "handover")
    signed: dict[str, Json] = {"kind": kind, "body": body.model_dump()}
    return canonical_json(signed | dict(zip(names, signatures, strict=False))) + b"\n"


def _read(kind: str, model: type[_BodyT], data: bytes, most: int) -> tuple[_BodyT, str, str]:
    """Body, signature and, where there is one, the key's before.

    Raises:
        InputError: it is not such a file, in the one spelling that it is written in.
    """
    try:
        content: dict[str, Any] = json.loads(data) if len(data) <= most else {}
        body = model.model_validate(content["body"])
        signature, handover = content["signature"], content.get("handover", "")
        expected = {"kind": kind, "body": body.model_dump(), "signature": signature}
        if "handover" in content:
            expected["handover"] = handover
        whole = canonical_json(expected) == data.strip() and isinstance(signature, str) and isinstance(handover, str)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError, ValidationError):
        whole = False
    if not whole:
        what = kind.removesuffix(" 1").removeprefix("undertone ")
        raise InputError(f"this is no {what} that undertone wrote, or it was changed on its way; ask for it again")
    return body, signature, handover
