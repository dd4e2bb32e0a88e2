"""The keys of [method] that every gradient method has."""

from pydantic import Field

from undertone.methods.gradient.optimisers import OptimiserOptions


class GradientOptions(OptimiserOptions):
    """[method] keys that every gradient method has. K = draws.

    draws: (noise, time) pairs for each record of a unit; records: the most records of a unit that enter one row (a
    random choice where it has more); min_time: times are drawn from [min_time T, T); caption_dropout: the share of
    captions left out, for guidance; largest_row_mib: longer rows are not kept one by one but summed as they are made
    (docs/methods.md).
    """

    draws: int = Field(default=4, ge=1, le=1024)
    records: int = Field(default=1, ge=1, le=1024)
    min_time: float = Field(default=0.0, ge=0, lt=1)
    caption_dropout: float = Field(default=0.0, ge=0, lt=1)
    largest_row_mib: int = Field(default=64, ge=1, le=4096)
