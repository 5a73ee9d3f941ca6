"""Which patients `data.exclude` names, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.exclusion import excluded_patients

IMAGE = np.zeros((8, 8), np.uint8)
HASHED = {"hash_key": "k", "archive": "nih"}


@pytest.fixture
def patients(make_dataset: Any) -> Any:
    """A dataset with an image of each patient, of these splits."""

    def make(name: str, splits: dict[str, str], recipe: dict[str, str] = HASHED) -> ShardedDataset:
        dataset: ShardedDataset = make_dataset(
            [IMAGE] * len(splits), name=name, patients=list(splits), splits=list(splits.values()), recipe=recipe
        )
        return dataset

    return make


def keys(exclude: Any, datasets: list[ShardedDataset]) -> set[str]:
    excluded = excluded_patients(exclude, datasets)
    assert excluded is not None
    return set(excluded.to_pylist())


def test_a_file_names_patients_by_their_keys(patients: Any, tmp_path: Path) -> None:
    one, two = patients("one", {"a": "train", "b": "train"}), patients("two", {"c": "train"})
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("patient\n b \n\nunheard-of\n")
    second.write_text("c")
    assert excluded_patients(None, [one]) is None
    assert keys(str(first), [one, two]) & {"a", "b", "c"} == {"b"}
    assert keys([str(first), str(second)], [one, two]) & {"a", "b", "c"} == {"b", "c"}


def test_splits_of_another_dataset_name_theirs(patients: Any) -> None:
    """Also of the same one, where published lists put a patient into two splits."""
    dataset = patients("one", {"a": "train", "b": "train", "c": "val"})
    other = patients("other", {"b": "test", "c": "val", "d": "val", "a": "train"})
    assert keys({str(other.root): "test"}, [dataset]) == {"b"}
    assert keys({str(other.root): ["val", "test"]}, [dataset]) == {"b", "c", "d"}
    assert keys({str(dataset.root): "val", str(other.root): "test"}, [dataset]) == {"b", "c"}
    toy = patients("toy", {"a": "train", "b": "val"}, {})  # which does not say how it was hashed
    assert keys({str(toy.root): "val"}, [toy]) == {"b"}


def test_what_cannot_be_excluded_is_one_error(patients: Any, tmp_path: Path) -> None:
    dataset = patients("one", {"a": "train", "b": "val"})
    rehashed = patients("rehashed", {"a": "train"}, HASHED | {"hash_key": "another"})
    elsewhere = patients("elsewhere", {"a": "train"}, HASHED | {"archive": "mimic"})
    unsaid = patients("unsaid", {"a": "train"}, {})
    nobody, binary = tmp_path / "nobody.txt", tmp_path / "image.png"
    nobody.write_text("x\ny\n")
    binary.write_bytes(b"\xff\xfe\x00")
    root = str(dataset.root)
    for exclude, printed in (
        (
            str(nobody),
            r"exclude: expected patients' keys, as in .* none of its 2 lines is a patient of .*one, got .*nobody.txt",
        ),
        (str(tmp_path / "none.txt"), r"exclude: expected a file that can be read: .*No such file.*none.txt"),
        (str(binary), r"exclude: expected patients.txt, a file .*: this is not text, got .*image.png"),
        (root, r"exclude: expected patients.txt, .*: this is a folder; if it is a dataset name its splits, got .*one"),
        ({root: None}, r"exclude: expected the names of splits, as in patients.txt, a file .* or {DATASET: \[val"),
        (7, "exclude: expected patients.txt, .*, got 7"),
        ({root: "vla"}, "exclude: expected splits of .*one, which has train, val; did you mean 'val'"),
        ({str(tmp_path / "gone"): "test"}, "no sharded dataset at .*gone"),
        ({str(rehashed.root): "train"}, r"one and .*rehashed: their patients were hashed with two keys, so no"),
        ({str(elsewhere.root): "train"}, "elsewhere: their patients are of two archives by their recipes"),
        ({str(unsaid.root): "train"}, "unsaid: one of them does not say with which hash key it was made"),
    ):
        with pytest.raises((ArgumentError, DatasetError), match=printed):
            keys(exclude, [dataset])
