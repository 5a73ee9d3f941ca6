"""The labels that a task learns, and the values that count as its targets.

Shards keep what the tables say: 0, 1, NaN where they have nothing (unknown), and CheXpert's -1 (uncertain). A label of
several classes is a column for each class, of which one is 1 (``DatasetInfo.flags``), as is one that was sharded so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from etils.epy import lazy_imports

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.errors import DatasetError, nearest
from dira_scale.train.data.config import COUNTS_AS
from dira_scale.train.data.constants import constant

with lazy_imports():
    import numpy as np
    import torch

    from dira_scale.train.data import alike, mapped, random

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset

UNCERTAIN = -1
IGNORE = -1  # of a mask's pixel that nobody knows: its image has no mask, or a rotation brought it in from beyond it
UNKNOWN_CLASS = -100  # ``cross_entropy`` leaves it out
LSR_ONES = "lsr_ones"  # uncertain labels only: a number from SMOOTHED at each draw (Pham et al., arXiv:1911.06475, 2.4)
SMOOTHED = (0.55, 0.85)


class LabelError(DatasetError):
    """A label, as a dataset has it, can be neither learned nor evaluated; ``rest``: those that can."""

    def __init__(self, text: str, rest: Sequence[str] = (), lacks: str = "") -> None:
        super().__init__(text, lacks)
        self.rest = rest


class Columns(ABC):
    """The columns of labels that batches have, L of them, and the targets that they are: :class:`Labels`, and
    ``numbers.Numbers``.

    Attributes:
        names: of the columns of ``Batch.labels``, those of classes as ``label: class``.
        columns: for each dataset, which of its labels as yes and no they are.
        smoothed: for each, whether loaders draw a number from ``SMOOTHED`` for -1 (:meth:`smooth`); (): of none.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    smoothed: tuple[bool, ...] = ()

    def smooth(self, labels: np.ndarray, u: np.ndarray) -> np.ndarray:
        """``labels`` float32 [b, L] as stored, with a number from ``SMOOTHED`` for uncertain ones that are
        ``smoothed``, by ``u`` [b, L], uniform in [0, 1)."""
        return labels

    def targets(self, labels: Tensor) -> Tensor:
        """``labels`` float32 [b, L] as stored -> the targets; NaN, which no loss or metric counts."""
        return labels

    def values(self, datasets: Sequence[ShardedDataset], split: str, samples: np.ndarray) -> np.ndarray:
        """Return what ``samples`` [n], counted over the whole splits, have as stored: float32 [n, L]."""
        rows = [dataset.rows(split) for dataset in datasets]
        ends, values = np.cumsum([*map(len, rows)]), np.empty((len(samples), len(self.names)), np.float32)
        of = np.searchsorted(ends, samples, side="right")
        for number, (dataset, columns) in enumerate(zip(datasets, self.columns, strict=True)):
            here = rows[number][samples[of == number] - (ends[number] - len(rows[number]))]
            values[of == number] = dataset.flags(here)[:, list(columns)]
        return values

    def check(self, datasets: Sequence[ShardedDataset], split: str, learned: Iterable[np.ndarray] | None) -> None:
        """Raise DatasetError, naming datasets, split and label, unless the labels can be learned or evaluated; a
        LabelError, if they could without one of them.

        Args:
            learned: the samples that are trained on, int64, counted over the whole splits, some at a time; None: all,
                and they are only evaluated, where a label may have no positive or no negative, and a number one value.
        """
        count = sum(len(dataset.rows(split)) for dataset in datasets)
        everyone = (np.arange(part.start, part.stop) for part in mapped.chunks(count))
        different, sizes = [np.empty((0, len(self.names)), np.float32)], [np.empty(0, int)]
        for samples in everyone if learned is None else learned:
            rows, which = alike.numbered(self.values(datasets, split, samples))
            different.append(rows)
            sizes.append(np.bincount(which, minlength=len(rows)))
        values, which = alike.numbered(np.concatenate(different))
        counts = np.bincount(which, np.concatenate(sizes), len(values)).astype(int)
        where = f"{', '.join(str(dataset.root) for dataset in datasets)}, split '{split}'"
        self._check(values, counts, where, learned is not None)

    @abstractmethod
    def _check(self, values: np.ndarray, counts: np.ndarray, where: str, learned: bool) -> None:
        """Raise DatasetError as :meth:`check`, of the different ``values`` [n, L], in the order in which they come, of
        how many samples these are [n], and whether they are learned."""


class ColumnsChoice(Protocol):
    """Labels as a user names them: :class:`LabelChoice`, and ``numbers.NumberChoice``."""

    def of(self, datasets: Sequence[ShardedDataset]) -> Columns:
        """Return the columns of these datasets. Raises DatasetError or ArgumentError for what one of them lacks."""
        ...


@dataclass(frozen=True)
class LabelChoice:
    """Labels as a user names them.

    Attributes:
        names: of labels that every dataset has; None: all of them.
        uncertain: as what -1 counts, ``ones``, ``zeros``, ``ignore`` (as unknown) or ``lsr_ones`` (drawn anew from
            ``SMOOTHED`` in each epoch); of all labels, or by name, others ``ignore``.
        unknown: the same of samples whose label nobody knows: CheXpert's protocols take blank cells as ``zeros``.
        exclusive: every sample has one of the labels, or of one label's classes (multi-class).
        complete: every sample must have them: an unknown one is refused.
    """

    names: tuple[str, ...] | None = None
    uncertain: str | Mapping[str, str] = "ignore"
    unknown: str = "ignore"
    exclusive: bool = False
    complete: bool = False

    def of(self, datasets: Sequence[ShardedDataset]) -> Labels:
        """The labels of these datasets. Raises DatasetError for what one of them lacks, ArgumentError for a name or
        policy that is none."""
        names = tuple(datasets[0].info.label_names) if self.names is None else self.names
        columns = tuple(columns_of(dataset, names) for dataset in datasets)
        first = _names(datasets[0], columns[0])
        for dataset, chosen in zip(datasets, columns, strict=True):
            if (here := _names(dataset, chosen)) != first:
                raise DatasetError(
                    f"{datasets[0].root} has the labels {', '.join(first)}, {dataset.root} has {', '.join(here)}",
                    lacks="same classes",
                )
        if self.exclusive and len(first) < 2:
            raise ArgumentError("names", UNSHOWN, f"two labels or more, or a label of classes: {first[0]} alone is not "
                                "one of several classes")  # fmt: skip
        policies = *COUNTS_AS, LSR_ONES
        if isinstance(self.uncertain, Mapping):
            for name in self.uncertain:
                if name not in names:
                    expected = f"one of {', '.join(names)}{nearest(name, names)}"
                    raise ArgumentError(f"uncertain.{name}", UNSHOWN, expected)
            by_name = {name: self.uncertain.get(name, "ignore") for name in names}
            by_name = {name: _checked(f"uncertain.{name}", word, policies) for name, word in by_name.items()}
        else:
            by_name = dict.fromkeys(names, _checked("uncertain", str(self.uncertain), policies))
        flags, label_names = datasets[0].info.flags, datasets[0].info.label_names
        words = [by_name[label_names[flags[column].number]] for column in columns[0]]  # as what -1 counts
        if self.exclusive and LSR_ONES in words:
            raise ArgumentError("uncertain", LSR_ONES, "ignore: one of several classes is known or is not")
        uncertain = tuple(COUNTS_AS.get(word, float("nan")) for word in words)
        unknown = COUNTS_AS[_checked("unknown", self.unknown, COUNTS_AS)]
        smoothed = tuple(word == LSR_ONES for word in words)
        return Labels(first, columns, uncertain, unknown, self.exclusive, smoothed, self.complete)


def _checked(name: str, word: str, policies: Iterable[str]) -> str:
    if word not in (policies := [*policies]):
        raise ArgumentError(name, word, f"{', '.join(policies)}{nearest(word, policies)}")
    return word


@dataclass(frozen=True)
class Labels(Columns):
    """The labels of a task.

    Attributes:
        uncertain: for each, as what -1 counts: 1, 0, or NaN.
        unknown: as what NaN counts.
        exclusive: every sample has one of them.
        complete: every sample must have them.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]
    uncertain: tuple[float, ...]
    unknown: float
    exclusive: bool
    smoothed: tuple[bool, ...] = ()
    complete: bool = False

    def smooth(self, labels: np.ndarray, u: np.ndarray) -> np.ndarray:
        drawn = (labels == UNCERTAIN) & np.array(self.smoothed)
        return np.where(drawn, random.between(u, *SMOOTHED), labels).astype(np.float32)

    def targets(self, labels: Tensor) -> Tensor:
        """Targets of 0, 1 and NaN, and of what :meth:`smooth` has drawn."""
        # Unknown ones first: those that are uncertain and ignored stay so.
        values = torch.where(labels.isnan(), self.unknown, labels)
        return torch.where(labels == UNCERTAIN, constant(self.uncertain, labels), values)

    def _check(self, values: np.ndarray, counts: np.ndarray, where: str, learned: bool) -> None:
        samples = counts.sum()
        targets = self.targets(torch.from_numpy(values)).numpy()
        refused: dict[str, str] = {}
        for name, stored, target in zip(self.names, values.T, targets.T, strict=True):
            if (wrong := ~np.isin(stored, (0, 1, UNCERTAIN)) & ~np.isnan(stored)).any():
                need = f"need 0, 1, {UNCERTAIN} (uncertain) or nothing (unknown)"
                found = f"{where}: label '{name}' has the value {stored[wrong][0]:g}"
                raise DatasetError(f"{found}: {need}", lacks="classes")
            if np.isnan(target).all():
                why = " or uncertain, which is ignored" * bool((stored == UNCERTAIN).any())
                refused[name] = f"is unknown{why} in all {samples} samples"
                continue
            needed = {"positive": 1} if self.exclusive else {"positive": 1, "negative": 0}
            missing = [word for word, value in needed.items() if not (target == value).any()]
            if missing and (self.exclusive or learned):
                refused[name] = f"has no {missing[0]} among {samples} samples"
        if refused:
            problems = ", ".join(f"label '{name}' {why}" for name, why in refused.items())
            lost, labels = ([*dict.fromkeys(n.partition(": ")[0] for n in names)] for names in (refused, self.names))
            rest = [label for label in labels if label not in lost and not self.exclusive]
            of_classes = lost != [*refused] and not self.exclusive
            raise LabelError(f"{where}: {problems}", rest, lacks="fewer classes" if of_classes else "")
        if self.complete and (unknown := np.isnan(targets).any(1)).any():
            label = self.names[0].partition(": ")[0]
            found = f"{where}: label '{label}' is unknown in {counts[unknown].sum()} of {samples} samples"
            raise DatasetError(f"{found}, and every sample needs it: shard again without these")
        if self.exclusive and (several := (np.nansum(targets, 1) != 1) & ~np.isnan(targets).any(1)).any():
            found = f"{where}: {counts[several].sum()} of {samples} samples have none or several of the labels"
            raise DatasetError(f"{found} {', '.join(self.names)}: one of several classes needs exactly one")


def columns_of(dataset: ShardedDataset, names: Sequence[str]) -> tuple[int, ...]:
    """Return which of the dataset's labels as yes and no the labels ``names`` are.

    Raises ArgumentError for one that it does not have, DatasetError if it has none at all.
    """
    have = dataset.info.label_names
    if not have:
        raise DatasetError(f"{dataset.root} has no labels", lacks="labels")
    for name in names:
        if name not in have:
            lacks = f"which has no label '{name}', but {', '.join(have)}{nearest(name, have)}"
            raise ArgumentError("names", UNSHOWN, f"labels of {dataset.root}, {lacks}")
    flags = list(enumerate(dataset.info.flags))
    return tuple(column for name in names for column, flag in flags if have[flag.number] == name)


def labels_of(dataset: ShardedDataset, names: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of which columns have the ``names``, each once, in this order; other names as they are."""
    have, label = dataset.info.label_names, {flag.name: flag.number for flag in dataset.info.flags}
    return tuple(dict.fromkeys(have[label[name]] if name in label else name for name in names))


def _names(dataset: ShardedDataset, columns: Sequence[int]) -> tuple[str, ...]:
    flags = dataset.info.flags
    return tuple(flags[column].name for column in columns)


def certain(targets: Tensor) -> Tensor:
    """``targets`` with NaN for what is neither 0 nor 1: smoothed labels, which losses count and metrics do not."""
    return torch.where((targets == 0) | (targets == 1), targets, float("nan"))


def class_numbers(targets: Tensor) -> Tensor:
    """Return which of the targets [b, L], which exclude each other, is 1: int64 [b], ``UNKNOWN_CLASS`` where one of
    them is unknown."""
    return torch.where(targets.isnan().any(1), UNKNOWN_CLASS, targets.nan_to_num().argmax(1))
