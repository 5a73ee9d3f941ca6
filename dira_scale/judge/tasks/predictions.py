"""A held-out split as a network answers it: its samples in views, or whole at the size that they are stored in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from etils.epy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.train.data.batch import Batch

with lazy_imports():
    import numpy as np


@dataclass(frozen=True)
class SplitCases:
    """The samples of a split, counted over all datasets, by the manifest's keys. Of several datasets a key begins with
    the dataset's name."""

    datasets: Sequence[ShardedDataset]
    split: str

    @cached_property
    def keys(self) -> np.ndarray:
        several = len(self.datasets) > 1
        names = [f"{dataset.info.name}:" * several for dataset in self.datasets for _ in dataset.rows(self.split)]
        return np.array([f"{name}{key}" for name, key in zip(names, self._column("key"), strict=True)], object)

    @cached_property
    def patients(self) -> np.ndarray:
        return np.array([*map(str, self._column("patient"))], object)

    @property
    def scans(self) -> list[str]:
        """The study of each sample; where that is unknown, its patient."""
        return [str(study or patient) for study, patient in zip(self._column("study"), self.patients, strict=True)]

    def attributes(self, name: str) -> list[str]:
        """The attribute ``name`` of each sample; empty where it has none."""
        return [dict(cell or ()).get(name, "") for cell in self._column("attributes")]

    def _column(self, name: str) -> list[Any]:
        return [cell for dataset in self.datasets for cell in dataset.column(name)[dataset.rows(self.split)]]


@dataclass(frozen=True)
class Viewed:
    """A batch of held-out samples as views show them.

    Attributes:
        batch: on the device; its first ``count`` samples count.
        predicted: [b, K], the mean over the crops of each sample.
    """

    batch: Batch
    count: int
    predicted: Tensor


@dataclass(frozen=True)
class Whole:
    """A held-out sample at the size that it is stored in.

    Attributes:
        index: its number in the split, int64 [1].
        mask: as stored, int64 [1, *sides].
        predicted: [1, K, *sides].
        spacing: in mm; None: unknown.
        shown: the image, float32 [*sides] or [*sides, 3] in [0, 1], of a sample that is shown; None: it is not.
    """

    index: Tensor
    mask: Tensor
    predicted: Tensor
    spacing: Sequence[float] | None
    shown: Callable[[], np.ndarray] | None = None


class Predictions(Protocol):
    """A split's samples through a network, this process's share."""

    @property
    def about(self) -> SplitCases: ...

    @property
    def pictures(self) -> dict[str, bytes]:
        """JPEGs of those that are shown, by key."""
        ...

    def views(self) -> Iterator[Viewed]:
        """Yield the samples in views, as loaders make them."""
        ...

    def whole(self) -> Iterator[Whole]:
        """Yield the samples that have a mask, at stored size."""
        ...
