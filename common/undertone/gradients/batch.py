"""Which rows of a forward pass belong to which unit, and with what weight."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from undertone.errors import MechanismViolation

_WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Bucket:
    """Units that have the same number of rows; None stands for all of them, in order.

    `units` [n] are unit numbers, `rows` [n, k] the rows of each.
    """

    units: Tensor | None
    rows: Tensor | None
    count: int
    """n, the number of units here."""

    def take(self, values: Tensor) -> Tensor:
        """[rows, ...] -> [n, k, ...], without a copy where the rows lie in order."""
        if self.rows is None:
            return values.reshape(self.count, -1, *values.shape[1:])
        return values[self.rows.to(values.device)]


@dataclass(frozen=True)
class UnitBatch:
    """Rows of the forward pass that belong to units.

    A unit's rows are its records, the K noise draws and A augmentations of each. A row of weight 0 is allowed:
    it fills a unit up to a fixed number of rows, so that all shapes are fixed (PRIVACY 14).

    Attributes:
        unit_of_row: int64 [rows], 0 <= unit < units, in any order; every unit has at least one row.
        weight_of_row: float64 [rows], not negative, sums to 1 in each unit (a mean over records, draws, augmentations).
        units: how many units there are.

    Raises:
        MechanismViolation: the rows and weights are not as said here.
    """

    unit_of_row: Tensor
    weight_of_row: Tensor
    units: int

    def __post_init__(self) -> None:
        unit, weight = self.unit_of_row, self.weight_of_row
        if unit.dim() != 1 or unit.shape != weight.shape or unit.dtype != torch.int64 or weight.dtype != torch.float64:
            raise MechanismViolation(
                f"unit_of_row {tuple(unit.shape)} {unit.dtype} and weight_of_row {tuple(weight.shape)} {weight.dtype} "
                "must be int64 [rows] and float64 [rows]"
            )
        if len(unit) and not (int(unit.min()) >= 0 and int(unit.max()) < self.units):
            raise MechanismViolation(f"a row names a unit outside 0..{self.units - 1}")
        if bool((self.rows_of_unit == 0).any()):
            raise MechanismViolation("a unit has no row; give it at least one, or leave it out")
        totals = torch.zeros(self.units, dtype=torch.float64).index_add_(0, unit.cpu(), weight.cpu())
        if not bool((weight >= 0).all()) or bool(((totals - 1).abs() > _WEIGHT_TOLERANCE).any()):
            raise MechanismViolation("the weights of a unit's rows must not be negative and must sum to 1")

    @cached_property
    def rows_of_unit(self) -> Tensor:
        """How many rows each unit has, int64 [units]."""
        return torch.bincount(self.unit_of_row.cpu(), minlength=self.units)

    @cached_property
    def buckets(self) -> tuple[Bucket, ...]:
        """The units, those with equally many rows together: ragged patients without padding."""
        unit, counts = self.unit_of_row.cpu(), self.rows_of_unit
        order = torch.argsort(unit, stable=True)
        in_order = bool((order[1:] > order[:-1]).all())
        sizes = sorted(set(counts.tolist()))
        if len(sizes) == 1:
            rows = None if in_order else order.reshape(self.units, sizes[0])
            return (Bucket(None, rows, self.units),)
        starts = torch.cumsum(counts, 0) - counts
        found = []
        for size in sizes:
            units = torch.nonzero(counts == size).flatten()
            found.append(Bucket(units, order[starts[units, None] + torch.arange(size)], len(units)))
        return tuple(found)
