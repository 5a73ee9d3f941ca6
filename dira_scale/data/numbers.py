"""The numbers that a task learns: labels of any value, such as an age, as stored in shards; NaN where unknown. Grades
and times are numbers that are checked further."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dira_scale.arguments import UNSHOWN, ArgumentError
from dira_scale.data.config import MOST_GRADES
from dira_scale.data.labels import Columns, LabelError, columns_of
from dira_scale.errors import DatasetError

if TYPE_CHECKING:
    from dira_scale.data.manifest import ShardedDataset


@dataclass(frozen=True)
class NumberChoice:
    """Numbers as a user names them.

    Attributes:
        names: of labels that every dataset has; None: all that have a value other than 0, 1 and -1 in the first one.
        kind: :class:`Numbers`, or one of its kinds, made of names and columns.
    """

    names: tuple[str, ...] | None = None
    kind: "Callable[..., Numbers] | None" = None

    def of(self, datasets: Sequence["ShardedDataset"]) -> "Numbers":
        """Return the numbers of these datasets. Raises DatasetError or ArgumentError for what one of them lacks."""
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

    def _check(self, values: np.ndarray, where: str, learned: bool) -> None:
        for name, column in zip(self.names, values.T, strict=True):
            numbers = column[~np.isnan(column)]
            if not len(numbers):
                raise LabelError(f"{where}: label '{name}' is unknown in all {len(column)} samples")
            if learned and (numbers == numbers[0]).all():
                raise LabelError(
                    f"{where}: label '{name}' is {numbers[0]:g} wherever it is known, so there is nothing to learn"
                )


@dataclass(frozen=True)
class Grades(Numbers):
    """One label of ordered grades, 0 to ``grades`` - 1; None: of as many as there are."""

    grades: int | None = None

    def __post_init__(self) -> None:
        if len(self.names) > 1:
            raise ArgumentError("names", UNSHOWN, f"the one that is graded, of {', '.join(self.names)}")

    def _check(self, values: np.ndarray, where: str, learned: bool) -> None:
        """Raise LabelError also for a number that is no grade."""
        super()._check(values, where, learned)
        numbers = values[~np.isnan(values)]
        highest = (self.grades or MOST_GRADES) - 1
        if (wrong := numbers[(numbers != np.round(numbers)) | (numbers < 0) | (numbers > highest)]).size:
            range_ = f"0 to {highest}" + ("" if self.grades is None else f", of which there are {self.grades}")
            raise LabelError(
                f"{where}: label '{self.names[0]}' has the value {wrong[0]:g}, and grades are {range_}", lacks="grades"
            )


@dataclass(frozen=True)
class Times(Numbers):
    """Two labels: the time until an event, or until an image's patient was last seen, and whether the event came."""

    def _check(self, values: np.ndarray, where: str, learned: bool) -> None:
        """Raise DatasetError for another event than 0 and 1, a time below 0, for labels that nobody knows, and unless
        samples that are ``learned`` can be compared."""
        time, event = self.names
        times, events = (column[~np.isnan(values).any(1)] for column in values.T)
        if not len(times):
            raise LabelError(f"{where}: '{time}' and '{event}' are never known together")
        if (wrong := events[~np.isin(events, (0, 1))]).size:
            raise DatasetError(f"{where}: event '{event}' is {wrong[0]:g}: need 1 (it came), 0 (not yet), or nothing")
        if (times < 0).any():
            raise DatasetError(f"{where}: time '{time}' is {times.min():g}: need 0 or more")
        if learned and not comparable(times, events):
            raise LabelError(
                f"{where}: of {len(times)} samples none is known to outlive an event of '{event}', so there is nothing "
                "to learn"
            )


def comparable(times: np.ndarray, events: np.ndarray) -> bool:
    """Return whether anyone is known to outlive another's event. ``times``, ``events``: [n], NaN does not count."""
    if not (events == 1).any():
        return False
    first = np.nanmin(times[events == 1])
    return bool(((times > first) | ((times == first) & (events == 0))).any())
