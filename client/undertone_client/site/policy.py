"""policy.toml: what the site allows; anything absent is refused, and nothing that a coordinator sends can relax it.

The site's own people write it. An empty policy approves no plan of anybody.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from undertone.core import bounds
from undertone.core.config import Section
from undertone.core.keys import PLAN_DOMAIN, check_signature
from undertone.core.unit import SiteName
from undertone.errors import NotApproved

MOST_KEYS = 100
LONGEST_DAYS = 36_500
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Noise = Literal["central", "distributed"]


class Policy(Section):
    """policy.toml. Each key's description is what `undertone node policy` explains it by."""

    coordinators: dict[SiteName, PublicKey] = Field(
        default_factory=dict,
        max_length=MOST_KEYS,
        description="Coordinators that may ask, each a name of yours and its Ed25519 public key.",
    )
    methods: list[Annotated[str, Field(max_length=bounds.NAME)]] = Field(
        default_factory=list,
        max_length=bounds.OPTIONS,
        description="Methods that a study may use, by the names that `undertone plan` shows.",
    )
    models: list[Digest] = Field(
        default_factory=list,
        max_length=bounds.MODEL_FILES,
        description="Base models that a study may adapt, each by the digest that `undertone model pin` prints.",
    )
    noise: list[Noise] = Field(
        default_factory=list,
        max_length=2,
        description='Where noise may be added: "central" by the coordinator, which then sees the sum before noise; '
        '"distributed" by every site before its vector leaves.',
    )
    largest_sampling_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="With central noise: the largest share p of the units that a round may draw.",
    )
    largest_rounds: int | None = Field(
        default=None,
        ge=1,
        le=bounds.ATTEMPTS,
        description="With central noise: the most sums T that a study may open. Every attempt that a plan allows "
        "counts, because a coordinator that lies may open each.",
    )
    fewest_sites: int | None = Field(
        default=None, ge=2, le=bounds.SITES, description="The fewest sites over which a sum may be opened."
    )
    fewest_patients: int | None = Field(
        default=None,
        ge=0,
        description="The fewest patients of a study, by the figures that its sites publish. Figures of a study whose "
        "unit is no patient count something else, so with those only 0 is met.",
    )
    fewest_honest_shares: int | None = Field(
        default=None,
        ge=2,
        le=bounds.SITES,
        description="With secure aggregation: the fewest honest sites t - c in a sum if c others help a coordinator "
        "that lies. With distributed noise it is also how many noise shares the claim counts.",
    )
    allow_free_rosters: bool = Field(
        default=False,
        description="Whether sums of one study may be over any sites (aggregation.rosters). With central noise a "
        "coordinator that lies can then learn one site's sum as the difference of two.",
    )
    allow_plain: bool = Field(
        default=False,
        description="Whether aggregation may be plain: the coordinator then sees this site's own sum, not that of all.",
    )
    approvers: dict[SiteName, PublicKey] = Field(
        default_factory=dict,
        max_length=MOST_KEYS,
        description="Who may approve, each a name and its Ed25519 public key. With none the operator at this machine "
        "approves; with some only a signature by one of them does.",
    )
    longest_approval_days: int | None = Field(
        default=None, ge=1, le=LONGEST_DAYS, description="How many days an approval may last at most."
    )
    federations: dict[SiteName, Digest] = Field(
        default_factory=dict,
        max_length=MOST_KEYS,
        description="For each coordinator, by its name above, the pinned digest of its federation manifest, which says "
        "what key each other site has; `undertone node join` writes it. Without it there is no secure aggregation.",
    )

    @model_validator(mode="after")
    def _one_key_one_name(self) -> Self:
        keys = [*self.coordinators.values(), *self.approvers.values()]
        if len(set(keys)) < len(keys):
            raise ValueError(
                "coordinators and approvers have one key under two names; give each its own, so that nobody approves "
                "what he asks for"
            )
        strangers = sorted(self.federations.keys() - self.coordinators.keys())
        if strangers:
            raise ValueError(
                f"federations names {', '.join(strangers)}, which is not among coordinators; name it there as well, or "
                "take it out"
            )
        return self

    def name_of(self, key: str) -> str | None:
        """The name of the coordinator with this public key; None: the policy names none."""
        return next((name for name, known in self.coordinators.items() if known == key), None)

    def coordinator_of(self, digest: str, signature: str) -> str:
        """The name of the coordinator that signed the plan of this digest.

        Raises:
            NotApproved: none that the policy names did.
        """
        for name, key in self.coordinators.items():
            try:
                check_signature(key, PLAN_DOMAIN, digest, signature)
            except NotApproved:
                continue
            return name
        raise NotApproved(f"the signature over {digest[:8]} is by no coordinator that policy.toml names")
