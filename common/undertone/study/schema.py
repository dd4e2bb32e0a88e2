"""STUDY.toml: what a person writes, read strictly (`config.py`)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from undertone.core import bounds, classes
from undertone.core.captions import caption_fields
from undertone.core.config import Section, parse_tables, read_tables
from undertone.core.unit import SiteName, Unit
from undertone.study.start import MOST_IMAGES, MOST_STEPS

Mode = Literal["secagg", "plain"]
Rosters = Literal["chain", "free"]
# What a study without [aggregation] gets.
DEFAULT_MODE: Mode = "secagg"
# What stands for a number that `plan` finds; `undertone.study.automatic` does.
AUTO = "auto"


class StudyTable(Section):
    """[study]: the name under which the study is charged and released."""

    name: SiteName


class ModelTable(Section):
    """[model]: `embedded:tiny`, a local diffusers folder, or a hub id with its revision.

    `start`: the folder of a release that the study starts from; `start_images` are drawn from it, and `start_steps`
    trained on them, before the first round.
    """

    base: str = Field(min_length=1, max_length=bounds.PATH)
    revision: Annotated[str, Field(max_length=bounds.NAME)] | None = None
    start: Annotated[str, Field(min_length=1, max_length=bounds.PATH)] | None = None
    start_images: Annotated[int, Field(ge=1, le=MOST_IMAGES)] | None = None
    start_steps: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None


class PrivacyTable(Section):
    """[privacy]: the claim and what it is made of. Symbols: C = clip_norm, p = sampling_rate, T = rounds.

    `successor`: the STUDY.toml of a study that will start from this one's release; epsilon is then of both together.
    """

    unit: Unit
    epsilon: float = Field(gt=0, le=bounds.EPSILON)
    delta: float = Field(gt=0, lt=bounds.DELTA)
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | Literal["auto"] = "auto"
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    rounds: Annotated[int, Field(ge=1, le=bounds.ATTEMPTS)] | Literal["auto"] = "auto"
    max_attempts: int | None = Field(default=None, ge=1, le=bounds.ATTEMPTS)
    noise: Literal["central", "distributed"] = "central"
    allow_noisy: bool = False
    ready_seconds_per_unit: float = Field(default=0.0, ge=0, le=bounds.READY_SECONDS)
    successor: Annotated[str, Field(min_length=1, max_length=bounds.PATH)] | None = None


class DataTable(Section):
    """[data]: which column names the unit, how a record is described in words, and which classes there are.

    `classes` is typed by a person and public; `class_column` says where a site's records name theirs (PRIVACY 23).
    """

    unit_column: Annotated[str, Field(max_length=bounds.NAME)] | None = None
    caption: str = Field(default="a {token}", min_length=1, max_length=bounds.TEXT)
    class_column: Annotated[str, Field(min_length=1, max_length=bounds.NAME)] | None = None
    classes: list[Annotated[str, Field(max_length=bounds.NAME)]] = Field(default_factory=list, max_length=bounds.ITEMS)


class CohortTable(Section):
    """[cohort]: the roster and each site's public round figure N_i.

    `patients`: with a method of shards, in place of `units`, the same figure; N_i is then the number of shards.
    """

    min_sites: int = Field(default=3, ge=2, le=bounds.SITES)
    units: dict[SiteName, Annotated[int, Field(ge=1, le=bounds.UNITS)]] = Field(
        default_factory=dict, max_length=bounds.SITES
    )
    patients: dict[SiteName, Annotated[int, Field(ge=1, le=bounds.UNITS)]] = Field(
        default_factory=dict, max_length=bounds.SITES
    )

    @property
    def figures(self) -> dict[str, int]:
        """Site -> how many units it publishes, under whichever of both keys."""
        return self.units or self.patients


class AggregationTable(Section):
    """[aggregation]: how the sites' vectors become a sum. Symbols: t = threshold, c = colluders, b = wire_bits.

    `rosters`: whether the survivor lists of the study form a chain; without it by the rule of `PlannedAggregation`.
    """

    mode: Mode = DEFAULT_MODE
    threshold: int | None = Field(default=None, ge=2, le=bounds.SITES)
    colluders: int | None = Field(default=None, ge=0, le=bounds.SITES)
    wire_bits: Literal[32, 24] = 32
    rosters: Rosters | None = None


class MethodTable(BaseModel):
    """[method]: its name; every further key is the method's own and validated by the method."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`, as written."""
        return dict(self.model_extra or {})


class Study(Section):
    """A whole STUDY.toml."""

    study: StudyTable
    model: ModelTable
    method: MethodTable
    privacy: PrivacyTable
    data: DataTable = DataTable()
    cohort: CohortTable = CohortTable()
    aggregation: AggregationTable = AggregationTable()

    @field_validator("data")
    @classmethod
    def _caption_is_a_template(cls, value: DataTable) -> DataTable:
        caption_fields(value.caption)
        return value

    def model_post_init(self, _context: object, /) -> None:
        """Check combinations of keys.

        Raises:
            ValueError: turned into a `StudyError` by `load_study`.
        """
        privacy = self.privacy
        if privacy.unit == "patient" and not self.data.unit_column:
            raise ValueError('privacy.unit = "patient" needs data.unit_column, the column that names the patient')
        if privacy.unit != "patient" and self.data.unit_column:
            raise ValueError(f'data.unit_column goes with privacy.unit = "patient"; with "{privacy.unit}" leave it out')
        if privacy.max_attempts is not None and privacy.rounds != "auto" and privacy.max_attempts < privacy.rounds:
            raise ValueError(
                f"privacy.max_attempts = {privacy.max_attempts} is below privacy.rounds = {privacy.rounds}"
            )
        self._check_lineage()
        self._check_classes()
        self._check_timing()
        self._check_rosters()
        self._check_aggregation()

    def _check_lineage(self) -> None:
        """Raise ValueError where keys of a start have none, or a study has an ancestor and a successor."""
        model = self.model
        for key, value in (("start_images", model.start_images), ("start_steps", model.start_steps)):
            if value is not None and model.start is None:
                raise ValueError(f"model.{key} goes with model.start, the release that a study starts from")
        if model.start is not None and self.privacy.successor is not None:
            raise ValueError(
                "model.start and privacy.successor exclude each other: a study that starts from a release is no start "
                "of another"
            )

    def _check_classes(self) -> None:
        """Raise ValueError where the list of classes is not one that a person can have meant."""
        column, listed = self.data.class_column, self.data.classes
        if column is None and not listed:
            return
        if column is None:
            raise ValueError("data.classes needs data.class_column, the column in which records name their class")
        if not listed:
            raise ValueError(
                f'data.class_column = "{column}" needs data.classes, typed by a person: the list is published, so it '
                'is never read from images, as in classes = ["none", "pneumonia"]'
            )
        if column == self.data.unit_column:
            raise ValueError(
                f'data.class_column = "{column}" is the column that names the patient; classes have another'
            )
        wrong = classes.fault(listed)
        if wrong:
            raise ValueError(f"data.classes: {wrong}")

    def _check_timing(self) -> None:
        """Raise ValueError where a time is set at which sites are ready and it would hide nothing."""
        privacy = self.privacy
        if privacy.ready_seconds_per_unit and (privacy.noise == "central" or privacy.sampling_rate in (1, "auto")):
            raise ValueError(
                'privacy.ready_seconds_per_unit goes with privacy.noise = "distributed" and a sampling_rate below 1; '
                "elsewhere how long a site takes tells the coordinator nothing that the claim counts on: leave it out"
            )

    def _check_rosters(self) -> None:
        """Raise ValueError where a chain of survivor lists is asked for and would protect nothing."""
        if self.aggregation.rosters != "chain":
            return
        if self.aggregation.mode == "plain":
            raise ValueError(
                'aggregation.rosters = "chain" goes with aggregation.mode = "secagg"; with "plain" the coordinator '
                "sees each site's sum anyway: leave it out"
            )
        if self.privacy.noise == "distributed":
            raise ValueError(
                'aggregation.rosters = "chain" goes with privacy.noise = "central"; with "distributed" each vector '
                "carries noise, so no difference of sums is without it: leave it out"
            )

    def _check_aggregation(self) -> None:
        """Raise ValueError where noise or a key of [aggregation] needs secure aggregation and has none."""
        aggregation = self.aggregation
        if aggregation.mode == "secagg":
            return
        if self.privacy.noise == "distributed":
            raise ValueError(
                'privacy.noise = "distributed" needs aggregation.mode = "secagg": in plain aggregation the coordinator '
                "sees each site's vector with one noise share alone"
            )
        for key, value in (("threshold", aggregation.threshold), ("colluders", aggregation.colluders)):
            if value is not None:
                raise ValueError(f'aggregation.{key} goes with aggregation.mode = "secagg"; with "plain" leave it out')
        if aggregation.wire_bits != 32:
            raise ValueError('aggregation.wire_bits = 24 goes with aggregation.mode = "secagg"; plain words have 32')


class FilledPrivacy(PrivacyTable):
    """[privacy] once p and T are numbers."""

    sampling_rate: float = Field(gt=0, le=1)
    rounds: int = Field(ge=1, le=bounds.ATTEMPTS)


class FilledStudy(Study):
    """A study in which "auto" stands for C alone; see `undertone.study.automatic.filled`."""

    privacy: FilledPrivacy


def load_study(path: Path) -> Study:
    """Read and validate a study file.

    Raises:
        StudyError: the file is missing, is not TOML, or does not describe a study; one line each.
    """
    return parse_study(read_tables(path), path.name)


def parse_study(tables: dict[str, Any], source: str = "study") -> Study:
    """Validate the tables of a study; `source` names them in messages.

    Raises:
        StudyError: see `load_study`.
    """
    return parse_tables(Study, tables, source)
