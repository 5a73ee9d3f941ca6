"""Which images `predict` takes, and what it says where it was given none, or too much."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data.conftest import make_dataset

from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.predict.folder import FolderImages
from dira_scale.predict.images import DatasetImages

__all__ = ["make_dataset"]


def test_all_splits_are_those_of_the_manifest(make_dataset: Callable[..., ShardedDataset]) -> None:
    images = [np.full((8, 9 + n), n, np.uint8) for n in range(5)]
    dataset = make_dataset(images, splits=["train", "val", "train", "test", "val"])
    every = DatasetImages(str(dataset.root), "all", 2)
    assert every.keys == [str(key) for key in dataset.column("key")]
    assert [every.load(n).stored.sides for n in range(5)] == [image.shape for image in images]
    assert DatasetImages(str(dataset.root), "val", 2).keys == every.keys[1::3]
    with pytest.raises(UserError, match=r"data.split=vall: .* has .*, all; did you mean 'val'"):
        DatasetImages(str(dataset.root), "vall", 2)


def test_the_key_that_was_typed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^images={tmp_path}/nowhere: no such folder$"):
        FolderImages(f"{tmp_path}/nowhere", None, 2, "keys", None, 1)
