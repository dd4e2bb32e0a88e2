"""node.toml and connection.toml: facts about this machine and its way to a coordinator; none of it enters the plan."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from undertone.core.config import Section
from undertone.core.fleet_address import FleetAddress
from undertone.core.unit import SiteName
from undertone.errors import InputError
from undertone.models.devices import AUTO, Dtype


class NodeConfig(Section):
    """node.toml: facts about this machine; none of it enters the plan. Where the data lie, data sets say."""

    site: SiteName = Field(description="The site's name, as plans and federations have it.")
    device: str | list[str] = Field(
        default=AUTO,
        description='Where rows are computed: "auto", "cpu", "cuda:0", "mps", or a list of devices, between which the '
        "units are divided.",
    )
    dtype: Dtype = Field(
        default="float32", description="Of the frozen model's forward pass; rows stay float32 whatever it says."
    )
    micro_batch: Literal["auto"] | PositiveInt = Field(
        default="auto", description='How many units at a time; "auto" finds out by a dry run on random data.'
    )
    keep_rows: bool = Field(
        default=False,
        description="Whether rows stay on disk after they were answered: for diagnostics of a simulation.",
    )
    rehearsal: bool = Field(
        default=False,
        description="Whether this SITE_DIR is a rehearsal's, with drawn images: then it takes part in no study.",
    )


class Connection(Section):
    """connection.toml: how a coordinator is reached. `undertone node join` writes it from the welcome."""

    fleet: str = Field(
        description="Where the coordinator is reached: https://HOST:PORT. Its certificate is checked by ca.crt."
    )

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        try:
            FleetAddress.parse(self.fleet)
        except InputError as error:
            raise ValueError(f"fleet: {error}") from None
        return self

    @property
    def address(self) -> FleetAddress:
        """The address, parsed."""
        return FleetAddress.parse(self.fleet)
