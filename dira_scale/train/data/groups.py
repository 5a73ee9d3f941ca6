"""Which samples are of one patient or study, for views of two of its images."""

from typing import Any

import numpy as np

from dira_scale.dataset.manifest.index import Codes
from dira_scale.train.data.mapped import Write, chunks, mapped_once
from dira_scale.train.data.samples import Samples

COLUMNS = {"session": "studies", "patient": "patients"}  # by ``pair``: what the images of a sample's views share


class Groups:
    """The samples of a split, grouped as ``pair`` says; those of two datasets are in different groups, and without a
    study a sample is alone.

    A file of the node, which is mapped, has 12 bytes a sample and 8 a patient or study.
    """

    def __init__(self, samples: Samples, pair: str) -> None:
        columns: list[Codes] = [getattr(dataset, COLUMNS[pair]) for dataset in samples.datasets]
        of = [[dataset.identity for dataset in samples.datasets], samples.split, pair]

        def make(write: Write) -> dict[str, Any]:
            ends = np.cumsum([len(names) for _, names in columns])
            group = np.full(len(samples), -1, np.int32)  # alone
            for number, ((codes, names), rows) in enumerate(zip(columns, samples.rows, strict=True)):
                first = sum(samples.sizes[:number])
                for part in chunks(len(rows)):
                    code = codes[rows[part]]
                    group[first:][part] = np.where(code < 0, -1, code + (ends[number] - len(names)))
            counts = np.bincount(group[group >= 0], minlength=ends[-1])
            write("group", [group])
            write("members", [np.argsort(group, kind="stable")])
            write("starts", [np.cumsum(np.concatenate([[(group < 0).sum()], counts]))])
            return {"several": bool((counts > 1).any())}

        mapped = mapped_once("groups", of, 12 * len(samples), make)
        self._group, self._members, self._starts = mapped["group"], mapped["members"], mapped["starts"]
        self.several: bool = mapped.facts["several"]

    def others(self, index: np.ndarray) -> np.ndarray:
        """Return the number of further images in the groups of samples ``index`` [b]."""
        group = self._group[index]
        return np.where(group < 0, 0, self._starts[group + 1] - self._starts[group] - 1)

    def other(self, index: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Return the further image ``number`` (from 0) of each group."""
        place = self._starts[self._group[index]] + number
        return self._members[place + (self._members[place] >= index)]  # members ascend
