"""The keys of [method] in a study of prototypes."""

from typing import Annotated, Literal

from pydantic import Field

from undertone.core.bounds import ITEMS, NAME, TEXT
from undertone.core.classes import MOST
from undertone.core.config import Section


class PrototypeOptions(Section):
    """[method] keys of dp-prototypes.

    kinds, public_drawings: of what drawings, and of how many, the public latents are. components: k. centres: J, of
    each class. lloyd_rounds: T - 1. lloyd_share: the part of epsilon that they may cost by themselves. radius: R, or
    "auto", which `plan` settles by drawings.
    count_weight: a. records: how many of a unit's images enter its row at most. per_class: prototypes for each class of
    the study; class_names: those classes. public_check: 16 figures of the public latents. `plan` fills in both.
    """

    kinds: list[Annotated[str, Field(max_length=NAME)]] = Field(default_factory=list, max_length=ITEMS)
    public_drawings: int = Field(default=1024, ge=2, le=100_000)
    components: int = Field(default=64, ge=1, le=256)
    centres: int = Field(default=8, ge=1, le=256)
    lloyd_rounds: int = Field(default=2, ge=1, le=100)
    lloyd_share: float = Field(default=0.6, gt=0, lt=1)
    radius: Annotated[float, Field(gt=0, le=1000)] | Literal["auto"] = "auto"
    count_weight: float = Field(default=1.0, gt=0, le=1000)
    records: int = Field(default=64, ge=1, le=100_000)
    per_class: bool = False
    class_names: list[str] = Field(default_factory=list, max_length=MOST)
    public_check: str = Field(default="", max_length=TEXT)
