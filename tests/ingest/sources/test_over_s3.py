"""Published datasets in a store, as others keep them: a real S3 server gives the dataset that a folder gives."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import s3
from ingest.sources import miniatures

from dira_scale.ingest.convert import convert


def same_from_s3(name: str, source: Path, tmp_path: Path, ingest: SimpleNamespace) -> dict[str, bytes]:
    """Convert ``source``, a file or folder, from the disk and from a bucket; the files."""
    with s3.bucket() as bucket, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # the list of rejected names of a store's images goes here
        for path in [source] if source.is_file() else source.rglob("*"):
            if path.is_file():
                bucket.client.upload_file(str(path), s3.NAME, path.relative_to(source.parent).as_posix())
        convert(ingest.recipe(name, images=str(source)), tmp_path / "disk", workers=1)
        convert(ingest.recipe(name, images=f"{bucket.url}/{source.name}"), tmp_path / "store", workers=1)
    there = ingest.contents(tmp_path / "store")
    assert there == ingest.contents(tmp_path / "disk")
    return there


def test_an_archive_of_medmnist(tmp_path: Path, ingest: SimpleNamespace) -> None:
    miniatures.medmnist(tmp_path / "pneumoniamnist.npz")
    made = same_from_s3("medmnist", tmp_path / "pneumoniamnist.npz", tmp_path, ingest)
    assert {name.partition("-")[0] for name in made if name.endswith(".tar")} == {"train", "val", "test"}


def test_the_folder_of_chestxray14(tmp_path: Path, ingest: SimpleNamespace) -> None:
    """With its lists beside the images, split over folders."""
    miniatures.chestxray14(tmp_path / "nih")
    made = same_from_s3("chestxray14", tmp_path / "nih", tmp_path, ingest)
    assert any(name.endswith(".tar") and len(content) > 10_000 for name, content in made.items())
