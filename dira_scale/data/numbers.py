"""Which numbers a task learns: labels of any value, such as an age, as shards have them; NaN where nobody knows. Grades
and times are numbers that are checked further."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dira_scale.data.config import MOST_GRADES
from dira_scale.data.labels import Columns, columns_of
from dira_scale.errors import UserError

if TYPE_CHECKING:
    from dira_scale.data.manifest import ShardedDataset


@dataclass(frozen=True)
class NumberChoice:
    """Numbers as a user names them.

    Attributes:
        names: of labels that every dataset has; None: all that have a value other than 0, 1 and -1 in the first one.
        key: of the configuration that names them.
        made: :class:`Numbers`, or one of its kinds, of names and columns.
    """

    names: tuple[str, ...] | None = None
    key: str = "labels"
    made: "Callable[..., Numbers] | None" = None

    def of(self, datasets: Sequence["ShardedDataset"]) -> "Numbers":
        """The numbers of these datasets. Raises UserError, naming dataset and label, for what one of them lacks."""
        names = datasets[0].number_labels if self.names is None else self.names
        if not names and datasets[0].info.label_names:
            have = ", ".join(datasets[0].info.label_names)
            raise UserError(
                f"{self.key}=null: {datasets[0].root} has no label of numbers, but {have}: name one, or shard it "
                "again with recipe.label_columns=[COLUMN]"
            )
        for dataset in datasets:
            if named := [name for name in names if name in dataset.info.classes]:
                raise UserError(
                    f"{self.key}: '{named[0]}' of {dataset.root} is a label of classes, which have no order: use "
                    "task=labels, or shard it again with recipe.label_columns"
                )
        return (self.made or Numbers)(names, tuple(columns_of(dataset, names, self.key) for dataset in datasets))


@dataclass(frozen=True)
class Numbers(Columns):
    """The numbers of a task, which are their own targets. To be learned, a number needs two values."""

    names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...] = ()

    def _check(self, values: np.ndarray, where: str, remedy: str, learned: bool) -> None:
        for name, given in zip(self.names, values.T, strict=True):
            known = given[~np.isnan(given)]
            if not len(known):
                raise UserError(f"{where}: label '{name}' is unknown in all {len(given)} samples: {remedy}")
            if learned and (known == known[0]).all():
                raise UserError(
                    f"{where}: label '{name}' is {known[0]:g} wherever it is known, so there is nothing to learn: "
                    f"{remedy}"
                )


@dataclass(frozen=True)
class Grades(Numbers):
    """One label of ordered grades, 0 to ``grades`` - 1; None: of as many as there are."""

    grades: int | None = None

    def _check(self, values: np.ndarray, where: str, remedy: str, learned: bool) -> None:
        """Raise UserError also for several labels, and for a number that is no grade."""
        if len(self.names) > 1:
            raise UserError(f"task.label=null: {', '.join(self.names)} are numbers: name the one that is graded")
        super()._check(values, where, remedy, learned)
        known = values[~np.isnan(values)]
        highest = (self.grades or MOST_GRADES) - 1
        if (wrong := known[(known != np.round(known)) | (known < 0) | (known > highest)]).size:
            range_ = f"0 to {highest}" + ("" if self.grades is None else f" (task.grades={self.grades})")
            raise UserError(
                f"{where}: label '{self.names[0]}' has the value {wrong[0]:g}, and grades are {range_}: learn it by "
                f"task=regression, or {remedy}"
            )


@dataclass(frozen=True)
class Times(Numbers):
    """Two labels: the time until an event, or until an image's patient was last seen, and whether the event came."""

    def _check(self, values: np.ndarray, where: str, remedy: str, learned: bool) -> None:
        """Raise UserError for another event than 0 and 1, a time below 0, for labels that nobody knows, and unless
        samples that are ``learned`` can be compared."""
        time, event = self.names
        times, events = (column[~np.isnan(values).any(1)] for column in values.T)
        if not len(times):
            raise UserError(f"{where}: '{time}' and '{event}' are never known together: {remedy}")
        if (wrong := events[~np.isin(events, (0, 1))]).size:
            raise UserError(f"{where}: event '{event}' is {wrong[0]:g}: need 1 (it came), 0 (not yet), or nothing")
        if (times < 0).any():
            raise UserError(f"{where}: time '{time}' is {times.min():g}: need 0 or more")
        if learned and not comparable(times, events):
            raise UserError(
                f"{where}: of {len(times)} samples none is known to outlive an event of '{event}', so there is nothing "
                f"to learn: {remedy}"
            )


def comparable(times: np.ndarray, events: np.ndarray) -> bool:
    """Whether someone is known to outlive another's event. ``times``, ``events``: [n], NaN does not count."""
    if not (events == 1).any():
        return False
    first = np.nanmin(times[events == 1])
    return bool(((times > first) | ((times == first) & (events == 0))).any())
