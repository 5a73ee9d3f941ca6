"""Which numbers a task learns: labels of any value, such as an age, as shards have them; NaN where nobody knows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from dira_scale.data.labels import columns_of, stored_values
from dira_scale.errors import UserError

if TYPE_CHECKING:
    from dira_scale.data.manifest import ShardedDataset


@dataclass(frozen=True)
class NumberChoice:
    """Numbers as a user names them.

    Attributes:
        names: of labels that every dataset has; None: all that have a value other than 0, 1 and -1 in the first one.
        key: of the configuration that names them.
    """

    names: tuple[str, ...] | None = None
    key: str = "labels"

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
        return Numbers(names, tuple(columns_of(dataset, names, self.key) for dataset in datasets))


@dataclass(frozen=True)
class Numbers:
    """The numbers of a task, L of them.

    Attributes:
        names: of the columns of ``Batch.labels``.
        columns: for each dataset, which of its labels as yes and no they are.
    """

    names: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...] = ()
    smoothed: ClassVar[tuple[bool, ...]] = ()

    def smooth(self, labels: np.ndarray, u: np.ndarray) -> np.ndarray:
        return labels

    def targets(self, labels: Tensor) -> Tensor:
        """``labels`` float32 [b, L] as stored: they are the targets."""
        return labels

    def check(
        self,
        datasets: Sequence["ShardedDataset"],
        split: str,
        learned: np.ndarray | None,
        keys: str = "",
        remedy: str | None = None,
    ) -> None:
        """Raise UserError, naming datasets, split and label, unless the numbers can be learned or evaluated.

        Args:
            learned: the samples that are trained on, int64, counted over the whole splits, where a number needs two
                values; None: all, and they are only evaluated.
            keys: that chose them, as a user writes them.
            remedy: what to do; None: learn other numbers.
        """
        values, where, advice = stored_values(datasets, split, self.columns, learned, keys)
        for name, given in zip(self.names, values.T, strict=True):
            known = given[~np.isnan(given)]
            if not len(known):
                raise UserError(f"{where}: label '{name}' is unknown in all {len(given)} samples: {remedy or advice}")
            if learned is not None and (known == known[0]).all():
                raise UserError(
                    f"{where}: label '{name}' is {known[0]:g} wherever it is known, so there is nothing to learn: "
                    f"{advice}"
                )
