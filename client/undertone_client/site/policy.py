"""policy.toml: what the site allows; anything absent is refused, and nothing that a coordinator sends can relax it."""

from typing import Annotated

from pydantic import Field

from undertone.core.config import Section


class Policy(Section):
    """policy.toml: what the site allows; anything absent is refused."""

    coordinator: str = Field(pattern=r"^[0-9a-f]{64}$")
    approved: list[str] = Field(default_factory=list)
    federation: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    # The base models it takes, each by the digest that `undertone model pin` prints; by default any that an approved
    # plan pins.
    models: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] | None = None
    # Sums that the coordinator sees site by site need the site's consent in so many words.
    allow_plain: bool = False
    # So do sums over lists of sites that may differ by one, where the coordinator adds the noise (PRIVACY 12).
    allow_free_rosters: bool = False
