"""What a plan says of records: how they become units and words, and which classes there are (PRIVACY 23)."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from undertone.core import bounds
from undertone.core.classes import class_in, fault
from undertone.core.config import Section


class PlannedData(Section):
    """How records become units and words, and which classes there are.

    `class_column` and `classes` (since format 2) are no keys of plan.json where a study has no classes.
    """

    unit_column: Annotated[str, Field(max_length=bounds.NAME)] | None
    caption: str = Field(max_length=bounds.TEXT)
    class_column: Annotated[str, Field(max_length=bounds.NAME)] | None = None
    classes: list[Annotated[str, Field(max_length=bounds.NAME)]] = Field(default_factory=list, max_length=bounds.ITEMS)

    @model_serializer(mode="wrap")
    def _as_said(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what most plans leave unsaid."""
        return {key: value for key, value in dumped(self).items() if self.classes or not key.startswith("class")}

    def model_post_init(self, _context: object, /) -> None:
        """A column goes with a list of classes.

        Raises:
            ValueError: one is there without the other, or the list is none.
        """
        if (self.class_column is None) != (not self.classes):
            raise ValueError("a class column goes with a list of classes")
        wrong = fault(self.classes) if self.classes else ""
        if wrong:
            raise ValueError(wrong)

    def class_of(self, columns: Mapping[str, str]) -> int | None:
        """Which class of the plan's list a record's columns name; None: none of them."""
        return None if self.class_column is None else class_in(columns, self.class_column, self.classes)

    def takes(self, columns: Mapping[str, str]) -> bool:
        """Whether a record has a part in the study: one of an unlisted class has none (PRIVACY 23)."""
        return self.class_column is None or self.class_of(columns) is not None
