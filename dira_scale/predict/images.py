"""The images that are predicted, one after another: of a sharded dataset."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from dira_scale.archive.reading import QuarantinedError
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import DecodeError
from dira_scale.judge.evaluation.features import ALL, rows_of
from dira_scale.judge.evaluation.inference import Stored
from dira_scale.predict.geometry import ImageGeometry, SourceGeometry, Space
from dira_scale.train.data.geometry.fixed import FixedCrop
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples

# Of a predicted image: ``values`` of labels or numbers, or ``mask``; ``stage`` and ``reason`` of a refused one.
ImageRow = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """An image as it is, or would be, in a shard, and where its source's pixels are."""

    stored: Stored
    geometry: SourceGeometry


class PredictedImages(Protocol):
    """Attributes:
    keys: of all images: what they are called in tables.
    targets: of all images: their masks' files, without suffix.
    about: what identifies them all, ready for JSON, without paths.
    """

    keys: list[str]
    targets: list[str]
    about: dict[str, Any]

    def load(self, number: int) -> Loaded:
        """The image of ``keys[number]``. Raises QuarantinedError for one that cannot be used; OSError, UserError."""
        ...

    def name(self, number: int) -> str | None:
        """Its file's name, below the folder; None where there is none."""
        ...


class DatasetImages:
    """A split of a dataset, or all, by the manifest's keys. Raises UserError for another split or dimensions."""

    def __init__(self, shards: str, split: str, dimensions: int) -> None:
        self.dataset = ShardedDataset.open(shards)
        self.dataset.require(dimensions, "this network")
        self.rows = rows_of(self.dataset, split).tolist()
        splits = [name for name in self.dataset.splits if split in (name, ALL) and len(self.dataset.rows(name))]
        at = ((row, (name, n)) for name in splits for n, row in enumerate(self.dataset.rows(name).tolist()))
        self._readers = {name: SampleReader(Samples([self.dataset], name)) for name in splits}
        self._positions = dict(at)
        self.keys = self.targets = [str(key) for key in self.dataset.column("key")[self.rows]]
        self.about = {"dataset": self.dataset.info.name, "hash": self.dataset.hash, "split": split}

    def load(self, number: int) -> Loaded:
        try:
            split, position = self._positions[self.rows[number]]
            stored = Stored.of(self._readers[split], position)
        except UserError as error:
            if isinstance(error.__cause__, DecodeError):
                raise QuarantinedError("decode", str(error.__cause__)) from error
            raise
        row = self.rows[number]
        if stored.dimensions == 2:
            return Loaded(stored, ImageGeometry(stored.sides, self.dataset.cell("spacing", row)))
        affine = np.array(self.dataset.cell("affine", row), float).reshape(4, 4)
        return Loaded(stored, Space(affine, stored.sides, affine))

    def name(self, number: int) -> str | None:
        return None


@dataclass(frozen=True)
class CroppedImage:
    """``crops`` [n, C, *size], of stored values; ``low`` and ``high`` become 0 and 1."""

    crops: np.ndarray
    low: np.ndarray | float
    high: np.ndarray | float


def read_image(
    images: PredictedImages,
    seen: Mapping[str, Any],
    takes: Collection[int],
    crops: Sequence[FixedCrop] | None,
    size: tuple[int, ...],
    number: int,
) -> Loaded | CroppedImage | ImageRow:
    """Return image ``number`` with one of the channels that a network ``takes``; or its crops; or why it has none."""
    try:
        loaded = images.load(number)
        stored = loaded.stored.seen(**seen)
        if stored.channels not in takes:
            wanted = " or ".join(map(str, sorted(takes)))
            raise QuarantinedError("check", f"{stored.channels} channels, and the network takes {wanted}")
        if crops is None:
            return replace(loaded, stored=stored)
        return CroppedImage(np.stack([stored.cropped(crop, size) for crop in crops]), stored.low, stored.high)
    except QuarantinedError as error:
        return {"stage": error.stage, "reason": error.reason}
    except DecodeError as error:
        return {"stage": "decode", "reason": str(error)}
