"""Which images `predict` takes, and what it says where it was given none, or too much."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive.ingest import recipe
from archive.mutants.elements import radiographs, with_unknown_vr
from archive.sources.miniatures_3d import body, write_nifti
from dataset.conftest import make_dataset

from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.archive.reading import QuarantinedError
from dira_scale.archive.recipe import Recipe
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
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


@pytest.mark.parametrize("crop", [{"mask": 3}, {"boxes": [4, 4, 4]}])
def test_volumes_of_a_folder_are_not_cropped_to_masks_and_boxes(crop: dict[str, Any], tmp_path: Path) -> None:
    """These have none: the dataset that the network was trained on was cropped to its own."""
    write_nifti(tmp_path / "a.nii", body(0, (50, 40, 36)))
    volume = {"spacing": None, "clip": None, "range": None, "irregular": "resample", "crop": crop}
    made = Recipe.from_config(recipe("lits", images=str(tmp_path), volume=volume))
    images = FolderImages(str(tmp_path), made.identity(Hasher(PUBLIC_KEY)), 3, "keys", None, 1)
    assert images.load(0).stored.sides == (36, 40, 50)


def test_a_file_of_which_an_element_is_damaged_is_quarantined(tmp_path: Path) -> None:
    for number, (keyword, content) in enumerate(with_unknown_vr(radiographs(0))):
        (tmp_path / f"{number}{keyword}").write_bytes(content)
    made = Recipe.from_config(recipe("folder", images=str(tmp_path), burned_in="refuse"))
    images = FolderImages(str(tmp_path), made.identity(Hasher(PUBLIC_KEY)), 2, "source", None, 1)
    reasons = set()
    for item in range(len(images.keys)):
        try:
            images.load(item)
        except QuarantinedError as error:
            reasons.add(error.reason)
    assert "damaged or cut short (NotImplementedError)" in reasons


def test_the_key_that_was_typed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^images={tmp_path}/nowhere: no such folder$"):
        FolderImages(f"{tmp_path}/nowhere", None, 2, "keys", None, 1)


@pytest.mark.parametrize("missing", ["keep", "reject"])
def test_a_session_may_lack_what_no_other_has_and_its_own_name_needs_no_key(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a case that is predicted alone, where the archive of the training had all sequences."""
    write_nifti(tmp_path / "in/case/t1.nii.gz", body(0, (20, 24, 26)))
    keys = {"sequences": {"T1": "t1.nii.gz", "T2": "t2.nii.gz"}, "missing": missing}
    made = Recipe.from_config(recipe("sequences", images="elsewhere", **keys)).identity(Hasher(PUBLIC_KEY))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DIRA_SCALE_HASH_KEY", raising=False)
    if missing == "reject":
        with pytest.raises(UserError, match=r"recipe\.sequences\.T2=t2\.nii\.gz: expected .*; there is case/"):
            FolderImages(str(tmp_path / "in"), made, 3, "source", None, 1)
        return
    images = FolderImages(str(tmp_path / "in"), made, 3, "source", None, 1)
    stored = images.load(0).stored
    assert images.keys == ["case"] and (stored.channels, stored.sides) == (2, (26, 24, 20))
    assert not (tmp_path / "home").exists()
    FolderImages(str(tmp_path / "in"), made, 3, "keys", None, 1)
    assert (tmp_path / "home/.config/dira_scale/hash_key").is_file()
    (tmp_path / "in/case/t1.nii.gz").rename(tmp_path / "in/case/t2w.nii.gz")
    with pytest.raises(UserError, match=r"recipe\.sequences\.T1=t1\.nii\.gz: expected .* matches something in "):
        FolderImages(str(tmp_path / "in"), made, 3, "source", None, 1)
