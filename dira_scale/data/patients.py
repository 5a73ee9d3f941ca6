"""Other images of a sample's patient."""

import numpy as np

from dira_scale.data.samples import Samples


class Patients:
    """The samples of a split, grouped by patient; patients of two datasets are different ones.

    Memory: 24 bytes a sample.
    """

    def __init__(self, samples: Samples) -> None:
        patient = samples.patients()
        self._members = np.argsort(patient, kind="stable")  # patient after patient
        position = np.empty_like(self._members)
        position[self._members] = np.arange(len(position))
        self._place = position  # of a sample among the members
        counts = np.bincount(patient)
        self._start, self._count = (np.cumsum(counts) - counts)[patient], counts[patient]

    def others(self, index: np.ndarray) -> np.ndarray:
        """How many further images the patients of samples ``index`` [b] have."""
        counts: np.ndarray = self._count[index] - 1
        return counts

    def other(self, index: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Further image ``number`` (from 0) of each patient."""
        within = self._place[index] - self._start[index]
        return self._members[self._start[index] + number + (number >= within)]
