"""node.toml: facts about this machine; none of it enters the plan."""

from typing import Literal

from pydantic import Field, PositiveInt

from undertone.core.config import Section
from undertone.core.unit import SiteName
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
