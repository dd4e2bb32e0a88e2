"""The keys of [method] that every gradient method has."""

from pydantic import Field

from undertone.core.bounds import NAME, TEXT
from undertone.core.canonical import Json
from undertone.methods.gradient.optimisers import OptimiserOptions
from undertone.methods.protocol import Choice

MOST_DRAWS = 1024
# Of a unit's row alone: directions are made with draws of their own, and with whole captions.
_OF_ROWS = ("draws", "records", "caption_dropout", "largest_row_mib", "direction_check")

# What "auto" is: found on public subjects played as private sets (docs/benchmarks.md).
STEPS: dict[str, Choice] = {
    "draws": Choice(2, "more draws cost compute and gained little"),
    "min_time": Choice(0.2, "below, an image shows by itself what it is; far above, one colour answers for all"),
    "optimiser": Choice("dog", "steps grow while noised means point one way, whatever the subject"),
    "momentum": Choice(0.0, "DoG has none", unless="optimiser"),
}
DIRECTIONS = Choice(64, "noise enters so many values and not all")


class GradientOptions(OptimiserOptions):
    """[method] keys that every gradient method has. K = draws, k = directions.

    draws: (noise, time) pairs for each record of a unit; records: the most records of a unit that enter one row (a
    random choice where it has more); min_time: times are drawn from [min_time T, T); caption_dropout: the share of
    captions left out, for guidance; largest_row_mib: longer rows are not kept one by one but summed as they are made
    (docs/methods.md).

    directions: a row is its gradient in so many public directions (0: in all of w); direction_drawings: of how many
    public drawings they are made; direction_caption: theirs ("": the study's, its columns empty). `plan` fills in the
    caption and direction_check, by which a machine knows that it made the same (`gradient/directions.py`).
    """

    draws: int = Field(default=4, ge=1, le=MOST_DRAWS)
    records: int = Field(default=1, ge=1, le=1024)
    min_time: float = Field(default=0.0, ge=0, lt=1)
    caption_dropout: float = Field(default=0.0, ge=0, lt=1)
    largest_row_mib: int = Field(default=64, ge=1, le=4096)
    directions: int = Field(default=0, ge=0, le=1024)
    direction_drawings: int = Field(default=256, ge=1, le=4096)
    direction_caption: str = Field(default="", max_length=TEXT)
    direction_check: str = Field(default="", max_length=NAME)

    def model_post_init(self, context: object, /) -> None:
        """Keys that go together.

        Raises:
            ValueError: turned into a `StudyError` by `parse_options`.
        """
        super().model_post_init(context)
        if not self.directions and (self.direction_caption or self.direction_check):
            raise ValueError("method.direction_caption and direction_check go with method.directions above 0")
        if self.directions > self.direction_drawings:
            raise ValueError(
                f"method.directions = {self.directions} need at least as many method.direction_drawings; there are "
                f"{self.direction_drawings}"
            )

    def directions_follow_from(self) -> dict[str, Json]:
        """The options that public directions follow from: all but those of steps, batches and units' rows."""
        others = {*OptimiserOptions.model_fields, *_OF_ROWS}
        found: dict[str, Json] = self.model_dump(mode="json", exclude=others)
        return found
