"""What all parties of a session must agree on, before a key is made (docs/secure-aggregation.md, 2)."""

import json
import re
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Literal

from undertone.core.canonical import canonical_json
from undertone.errors import MechanismViolation, ProtocolError, UnfaithfulCoordinator
from undertone.secagg.encoding import VERSION, tagged

Noise = Literal["central", "distributed"]
Rosters = Literal["chain", "free"]

LARGEST_ROSTER = 1000
_LARGEST_BYTES = 1 << 17  # a roster of 1000 names of 63 characters, and the rest
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Below 4 a sum of discrete Gaussians is measurably not one (Kairouz et al. 2021, theorem 1).
_SMALLEST_SIGMA = 4


@dataclass(frozen=True)
class Parameters:
    """The public numbers of one session. A node builds its own and never uses the coordinator's.

    Attributes:
        study: SHA-256 of the plan.
        round: the round, counted as the plan does.
        attempt: the try at that round.
        session: strictly increasing within (study, round, attempt), from 1.
        federation: digest of the federation manifest.
        roster: the plan's sites, sorted.
        threshold: t, how many sites must help to open.
        colluders: c, how many sites may help a lying coordinator.
        min_sites: the fewest sites whose sum may be opened.
        dimension: d, words in a vector.
        wire_bits: the modulus is 2 to this.
        scale: s of the grid.
        site_clamp: B of the grid.
        noise: who adds it.
        rosters: whether the survivor lists of a study form a chain, or are free.
        sigma_local: standard deviation of a site's noise share in integer units; 0 if central.
        noise_margin: m, room for noise below the modulus; 0 if central.
        state_sha256: SHA-256 of the public state that rows are computed from.
        method: its name.
        protocol: version of secure aggregation.
    """

    study: str
    round: int
    attempt: int
    session: int
    federation: str
    roster: tuple[str, ...]
    threshold: int
    colluders: int
    min_sites: int
    dimension: int
    wire_bits: int
    scale: int
    site_clamp: int
    noise: Noise
    rosters: Rosters
    state_sha256: str
    method: str
    sigma_local: int = 0
    noise_margin: int = 0
    protocol: int = VERSION

    def check(self) -> None:
        """Refuse parameters under which the guarantee would not hold.

        Raises:
            MechanismViolation: names the first rule that is broken.
        """
        if not _well_typed(self):
            raise MechanismViolation("secure aggregation cannot run: a parameter has the wrong type")
        for broken, why in (*_forms(self), *_rules(self)):
            if broken:
                raise MechanismViolation(f"secure aggregation cannot run: {why}; change the study and plan again")

    @cached_property
    def context(self) -> bytes:
        """The 32 bytes that tie every message, key and signature to these parameters."""
        return tagged("context", self.to_bytes())

    @property
    def quorum(self) -> int:
        """Q: the fewest sites at every stage."""
        return max(self.threshold, self.min_sites)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> "Parameters":
        """Read parameters in their one spelling; `check` is another step.

        Raises:
            ProtocolError: not the canonical JSON of parameters.
        """
        if len(data) > _LARGEST_BYTES:
            raise ProtocolError(f"parameters of {len(data)} bytes are refused; {_LARGEST_BYTES} are enough")
        try:
            content = json.loads(data)
            parameters = cls(**{**content, "roster": tuple(content["roster"])})
            whole = _well_typed(parameters) and parameters.to_bytes() == data
        except (KeyError, RecursionError, TypeError, ValueError):
            whole = False
        if not whole:
            raise ProtocolError("the parameters of secure aggregation are malformed, or not in canonical form")
        return parameters


def agree(received: bytes, own: Parameters) -> None:
    """Insist that the coordinator's parameters are this node's own, key by key.

    Raises:
        ProtocolError: they are malformed.
        UnfaithfulCoordinator: names the first key that differs.
    """
    theirs = Parameters.from_bytes(received)
    for field in fields(Parameters):
        if getattr(theirs, field.name) != getattr(own, field.name):
            raise UnfaithfulCoordinator(
                f"the coordinator's {field.name} is not that of the plan that this site approved; "
                "nothing was sent. Ask the coordinator which plan it runs"
            )


def _well_typed(p: Parameters) -> bool:
    """Whether every field has exactly its type; a bool is no int."""
    numbers = [p.round, p.attempt, p.session, p.threshold, p.colluders, p.min_sites, p.dimension, p.wire_bits]
    numbers += [p.scale, p.site_clamp, p.sigma_local, p.noise_margin, p.protocol]
    texts = (p.study, p.federation, p.noise, p.rosters, p.state_sha256, p.method, *p.roster)
    return all(type(number) is int for number in numbers) and all(type(text) is str for text in texts)


def _forms(p: Parameters) -> tuple[tuple[bool, str], ...]:
    """What makes the parameters no parameters at all."""
    names = (*p.roster, p.method)
    digests = (p.study, p.federation, p.state_sha256)
    return (
        (p.protocol != VERSION, f"it speaks protocol {p.protocol}, this program {VERSION}"),
        (not all(_NAME.fullmatch(name) for name in names), "a name is not made of a-z, 0-9, - and _"),
        (not all(_DIGEST.fullmatch(digest) for digest in digests), "a digest is not SHA-256 in hexadecimal"),
        (not 2 <= len(p.roster) <= LARGEST_ROSTER, f"{len(p.roster)} sites; give 2 to {LARGEST_ROSTER}"),
        (tuple(sorted(set(p.roster))) != p.roster, "the roster is not sorted, or names a site twice"),
        (not 0 <= p.round < 1 << 31, f"round {p.round}"),
        (not 0 <= p.attempt < 1 << 31, f"attempt {p.attempt}"),
        (not 1 <= p.session < 1 << 31, f"session {p.session}"),
        (not 1 <= p.dimension < 1 << 31, f"dimension {p.dimension}"),
        (not (1 <= p.scale < 1 << 63 and p.scale & (p.scale - 1) == 0), f"scale {p.scale} is no power of two"),
    )


def _rules(p: Parameters) -> tuple[tuple[bool, str], ...]:
    """What would make it unsafe."""
    n, t, c = len(p.roster), p.threshold, p.colluders
    distributed = p.noise == "distributed"
    return (
        (p.wire_bits not in (24, 32), f"a wire of {p.wire_bits} bits; use 32 or 24"),
        (not 1 <= t <= n, f"threshold {t} of {n} sites"),
        (c < 0, f"{c} colluders"),
        (2 * t <= n + c, f"2t > n + c does not hold for t = {t}, n = {n}, c = {c}"),
        (t - c < 2, f"t - c = {t - c} honest sites cannot hide in each other's sum; at least 2 are needed"),
        (not 2 <= p.min_sites <= n, f"min_sites {p.min_sites} of {n} sites"),
        (p.noise not in ("central", "distributed"), f"noise {p.noise!r}"),
        (p.rosters not in ("chain", "free"), f"rosters {p.rosters!r}"),
        (distributed and p.rosters != "free", "a chain of lists with distributed noise, which needs none"),
        (distributed and c < 1, "distributed noise with c = 0: a site could take its own share off"),
        (distributed and p.sigma_local < _SMALLEST_SIGMA, f"sigma_local {p.sigma_local} is below {_SMALLEST_SIGMA}"),
        (not distributed and (p.sigma_local, p.noise_margin) != (0, 0), "central noise with a site's noise share"),
        (p.noise_margin < 0, f"noise margin {p.noise_margin}"),
        (p.site_clamp < 1, f"site clamp {p.site_clamp}"),
        (
            n * p.site_clamp + p.noise_margin >= 1 << (p.wire_bits - 1),
            f"{n} clamped sums and the noise margin do not fit {p.wire_bits} bits",
        ),
    )
