"""node.toml: facts about this machine and its data; none of it enters the plan."""

from typing import Literal

from pydantic import PositiveInt

from undertone.core.config import Section
from undertone.core.unit import SiteName
from undertone.models.devices import AUTO, Dtype


class NodeConfig(Section):
    """node.toml: facts about this machine and its data; none of it enters the plan."""

    site: SiteName
    data: str
    metadata: str | None = None
    # Unit ids that look alike are different people: the operator's word, given before records are registered.
    ids_as_written: bool = False
    # "auto", "cpu", "cuda:0", "mps", or a list of devices, between which the units are divided.
    device: str | list[str] = AUTO
    # Of the frozen model's forward pass; rows stay float32.
    dtype: Dtype = "float32"
    # How many units at a time; "auto" finds out by a dry run on random data.
    micro_batch: Literal["auto"] | PositiveInt = "auto"
    keep_rows: bool = False
