"""The numbers that a task learns: labels of any value, such as an age, as stored in shards; NaN where unknown. Grades
and times are numbers that are checked further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

from dira_scale.base.errors import DatasetError
from dira_scale.train.data.labels import Columns, LabelError, columns_of

with lazy_imports():
    import numpy as np

if TYPE_CHECKING:
    from dira_scale.dataset.manifest import ShardedDataset


@dataclass(frozen=True)
class NumberChoice:
    """Numbers as a user names them.

    Attributes:
        names: of labels that every dataset has; None: all that have a value other than 0, 1 and -1 in the first one.
        kind: :class:`Numbers`, or one of its kinds, made of names and columns.
    """

    names: tuple[str, ...] | None = None
    kind: Callable[..., Numbers] | None = None

    def of(self, datasets: Sequence[ShardedDataset]) -> Numbers:
        """The numbers of these datasets. Raises DatasetError or ArgumentError for what one of them lacks."""
        names = datasets[0].number_labels if self.names is None else self.names
        if not names and datasets[0].info.label_names:
            have = ", ".join(datasets[0].info.label_names)
            raise DatasetError(f"{datasets[0].root} has no label of numbers, but {have}", lacks="numbers")
        for dataset in datasets:
            if named := [name for name in names if name in dataset.info.classes]:
                raise DatasetError(
                    f"'{named[0]}' of {dataset.root} is a label of classes, which have no order", lacks="order"
                )
        return (self.kind or Numbers)(names, tuple(columns_of(dataset, names) for dataset in datasets))


@dataclass(frozen=True)
class Numbers(Columns):
    """The numbers of a task, which are their own targets. To be learned, a number needs two values."""

    names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...] = ()

    def _check(self, values: np.ndarray, counts: np.ndarray, where: str, learned: bool) -> None:
        for name, column in zip(self.names, values.T, strict=True):
            numbers = column[~np.isnan(column)]
            if not len(numbers):
                raise LabelError(f"{where}: label '{name}' is unknown in all {counts.sum()} samples")
            if learned and (numbers == numbers[0]).all():
                raise LabelError(
                    f"{where}: label '{name}' is {numbers[0]:g} wherever it is known, so there is nothing to learn"
                )
