"""Each unit's own randomness: a key from the node's secret, so that one row never moves another."""

import hashlib
import hmac

import numpy as np

from undertone.errors import MechanismViolation

KEY_BYTES = 32
_LABEL = b"undertone/row/1"


def row_key(secret: bytes, study: str, round_: int, attempt: int, unit: str) -> bytes:
    """The 32-byte key of one unit's row in one attempt (PRIVACY 3).

    HMAC-SHA256 under the node's secret. Each field is preceded by its length, so no two different
    tuples give the same message ("ab", "c" against "a", "bc"). The key depends on nothing but this
    unit's own name, so adding or removing another unit leaves it as it was.

    Args:
        secret: the node's secret, at least 32 bytes; never leaves the site.
        study: the plan's digest.
        round_: the round, 0 <= round_ < 2^64.
        attempt: the attempt, 0 <= attempt < 2^64.
        unit: the unit's id as the site writes it.

    Raises:
        MechanismViolation: the secret is too short, or a number is out of range.
    """
    if not (0 <= round_ < 1 << 64 and 0 <= attempt < 1 << 64):
        raise MechanismViolation(f"round {round_}, attempt {attempt}: both must lie in [0, 2^64)")
    numbers = (round_.to_bytes(8, "big"), attempt.to_bytes(8, "big"))
    return mac_of(secret, _LABEL, study.encode(), *numbers, unit.encode("utf-8", "surrogatepass"))


def mac_of(secret: bytes, *fields: bytes) -> bytes:
    """HMAC-SHA256 of fields under the node's secret, each preceded by its length: no two tuples give one message.

    Raises:
        MechanismViolation: the secret is too short.
    """
    if len(secret) < KEY_BYTES:
        raise MechanismViolation(
            f"the node's secret has {len(secret)} bytes and must have {KEY_BYTES}; create the node anew"
        )
    message = b"".join(len(field).to_bytes(8, "big") + field for field in fields)
    return hmac.new(secret, message, hashlib.sha256).digest()


def row_generator(key: bytes) -> np.random.Generator:
    """A generator for one row's own training randomness: crops, diffusion steps, initial values.

    Philox keyed with the first 16 bytes. It is fast and repeatable but not a cryptographic stream, so
    it never draws coins, keys or noise that protect anybody: those come from `Entropy` alone.

    Raises:
        MechanismViolation: the key is not 32 bytes long.
    """
    if len(key) != KEY_BYTES:
        raise MechanismViolation(f"a row key has {KEY_BYTES} bytes, not {len(key)}; take it from row_key")
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))
