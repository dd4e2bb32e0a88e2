"""What is left of a session for the audit log: who took part, with every signature, and no secret.

It holds no share, no sum and no hash of a sum: whoever knows all units but one could compare a hash with and
without it. The hash of a masked vector says nothing while one pair mask in it is unknown.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from undertone.core.canonical import Json, canonical_json
from undertone.core.federation import Federation
from undertone.errors import NotVerified, UndertoneError
from undertone.secagg import sealing
from undertone.secagg.messages import AdvertisedKeys, AdvertisedKeysList, Indices, MaskedInputProof
from undertone.secagg.parameters import Parameters


@dataclass(frozen=True)
class Transcript:
    """A transcript that holds.

    Attributes:
        params: the session's.
        sites: U3, whose vectors are in the sum.
        vectors: site -> SHA-256 of its masked vector, hexadecimal; a site can look for its own.
    """

    params: Parameters
    sites: tuple[str, ...]
    vectors: Mapping[str, str]


def write_transcript(
    params: Parameters,
    advertised: Mapping[int, AdvertisedKeys],
    masked_for: Indices,
    proofs: Mapping[int, MaskedInputProof],
    signatures: Mapping[int, bytes],
    opened_by: Indices,
) -> bytes:
    """Canonical JSON of a session that opened its sum; keys of the maps are roster indices."""
    name = params.roster
    listed = AdvertisedKeysList(tuple(advertised[i] for i in sorted(advertised)))
    content: dict[str, Json] = {
        "parameters": asdict(params),
        "round_digest": sealing.round_digest(params.context, listed).hex(),
        "advertised_keys": {name[i]: keys.content.hex() for i, keys in advertised.items()},
        "masked_for": [name[i] for i in masked_for],
        "vectors": {
            name[i]: {"sha256": proof.digest.hex(), "signature": proof.signature.hex()} for i, proof in proofs.items()
        },
        "consistency_signatures": {name[i]: signature.hex() for i, signature in signatures.items()},
        "opened_by": [name[i] for i in opened_by],
    }
    return canonical_json(content)


def check_transcript(data: bytes, federation: Federation) -> Transcript:
    """Check every signature and set of a transcript.

    Args:
        data: what a session left.
        federation: the manifest that the reader trusts.

    Raises:
        NotVerified: says which part does not hold.
    """
    try:
        content = json.loads(data)
        params = Parameters.from_bytes(canonical_json(content["parameters"]))
        params.check()
        if canonical_json(content) != data or federation.digest != params.federation:
            raise NotVerified("the transcript is not in canonical form, or of another federation")
        return _checked(content, params, federation)
    except NotVerified:
        raise
    except UndertoneError as error:
        raise NotVerified(f"the transcript does not hold: {error}") from None
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise NotVerified("the transcript is malformed") from None


def _checked(
    content: Mapping[str, Mapping[str, Mapping[str, str]]], params: Parameters, federation: Federation
) -> Transcript:
    """Every set within the one before it, every signature of its site."""
    u1, u2, u3 = (_indices(params, content[key]) for key in ("advertised_keys", "masked_for", "vectors"))
    u4, u5 = (_indices(params, content[key]) for key in ("consistency_signatures", "opened_by"))
    if not set(u5) <= set(u4) <= set(u3) <= set(u2) <= set(u1):
        raise NotVerified("a site takes part at a later stage of the transcript and not at an earlier one")
    if len(u3) < params.quorum or len(u5) < params.threshold:
        raise NotVerified("the transcript opens a sum with fewer sites than its parameters ask for")
    name, context = params.roster, params.context
    key_list = AdvertisedKeysList(
        tuple(AdvertisedKeys.of(i, _bytes(content["advertised_keys"][name[i]], 160)) for i in u1)
    )
    r1 = sealing.round_digest(context, key_list)
    if r1 != _bytes(content["round_digest"], 32):
        raise NotVerified("the round digest of the transcript is not that of its advertised keys")
    statements = [
        (
            a.index,
            sealing.advertised_keys_statement(context, a.index, a.seal_key, a.mask_key, a.commitment),
            a.signature,
        )
        for a in key_list.advertised
    ]
    for i in u3:
        vector = content["vectors"][name[i]]
        digest = sealing.masked_input_statement(context, r1, i, u2, _bytes(vector["sha256"], 32))
        statements.append((i, digest, _bytes(vector["signature"], 64)))
    survivors = sealing.consistency_statement(context, r1, u2, u3)
    statements += [(i, survivors, _bytes(content["consistency_signatures"][name[i]], 64)) for i in u4]
    for i, digest, signature in statements:
        if not federation.signed_by(name[i], digest, signature):
            raise NotVerified(f"a signature of {name[i]} in the transcript does not hold")
    return Transcript(params, tuple(name[i] for i in u3), {name[i]: content["vectors"][name[i]]["sha256"] for i in u3})


def _indices(params: Parameters, sites: Iterable[str]) -> Indices:
    """Roster indices of sites named once each; ValueError for a stranger."""
    named = list(sites)
    if len(set(named)) != len(named):
        raise NotVerified("the transcript names a site twice")
    return tuple(sorted(params.roster.index(site) for site in named))


def _bytes(text: object, size: int) -> bytes:
    """`size` bytes of lower-case hexadecimal."""
    value = bytes.fromhex(str(text))
    if len(value) != size or value.hex() != text:
        raise NotVerified("the transcript is malformed")
    return value
