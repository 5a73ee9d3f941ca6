"""MedMNIST's archives, grey and in colour, of one, several and many labels."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archive import ingest
from archive.sources import miniatures
from upath import UPath

from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.medmnist import MedMnist, Member, mapped_array
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError


def test_colours_become_luminance_if_asked_for(tmp_path: Path, shards: Callable) -> None:
    made = miniatures.medmnist(tmp_path, colours=True, classes=4)
    dataset = shards("medmnist", images=tmp_path / "set.npz", colour="luminance")
    assert dataset.label_names == ["label_0", "label_1", "label_2", "label_3"]
    for n in range(12):
        grey = made[f"set/train/{n}"][0].astype(float) @ (0.299, 0.587, 0.114)
        np.testing.assert_allclose(dataset.pixels(f"set/train/{n}"), grey, atol=1)
        assert list(dataset.labels(f"set/train/{n}").values()) == np.eye(4)[n % 4].tolist()


def test_an_array_that_is_larger_than_the_memory_it_may_take(tmp_path: Path) -> None:
    images = np.zeros((2000, 128, 128), np.uint8)
    images[:, 5, 5] = np.arange(2000) % 251
    np.savez_compressed(tmp_path / "large.npz", train_images=images)
    tracemalloc.start()
    array = mapped_array(tmp_path / "large.npz", "train_images")
    assert array[1777, 5, 5] == 1777 % 251 and array.shape == images.shape
    assert tracemalloc.get_traced_memory()[1] < images.nbytes / 8
    tracemalloc.stop()
    assert mapped_array(tmp_path / "large.npz", "train_images") is array  # unpacked once


def replaced(path: Path, name: str, content: bytes | None) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members[name] = content
    with zipfile.ZipFile(path, "w") as archive:
        for member, of in members.items():
            if of is not None:
                archive.writestr(member, of)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "member, content, words",
    [
        ("val_images.npy", None, "no item named 'val_images.npy'"),
        ("val_images.npy", npy(np.zeros((5, 28, 28), np.float32)), "an array of float32, not of uint8"),
        ("val_images.npy", npy(np.zeros((5, 28, 28, 28), np.uint8)), "neither grey nor colour"),
        ("val_labels.npy", npy(np.zeros((4, 1), np.uint8)), r"shape \(4, 1\) for 5 images"),
        ("val_labels.npy", npy(np.array([[{}]] * 5)), "values other than integers or floats"),
        ("val_labels.npy", b"no array", "not a NumPy file"),
    ],
)
def test_archives_that_are_none_are_named(tmp_path: Path, member: str, content: bytes | None, words: str) -> None:
    path = tmp_path / "set.npz"
    miniatures.medmnist(tmp_path)
    replaced(path, member, content)
    with pytest.raises((UserError, ArgumentError), match=f"expected an archive of MedMNIST's 2D sets .*{words}"):
        MedMnist(str(path))


def test_a_damaged_array_is_quarantined(tmp_path: Path, shards: Callable) -> None:
    path = tmp_path / "set.npz"
    miniatures.medmnist(tmp_path)
    content = bytearray(npy(np.load(path)["test_images"]))
    replaced(path, "test_images.npy", bytes(content[:-3000]))
    dataset = shards("medmnist", images=path)
    assert len(dataset) == 17 and not dataset.splits()["test"]
    reasons = dataset.rejected(*(f"set/test/{n}" for n in range(6)))
    assert len(reasons) == 6 and all(reason.startswith("the archive is damaged") for reason in reasons.values())


def test_a_store_that_fails_is_no_damage_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in opening nor half way: the image must not go to quarantine."""
    miniatures.medmnist(tmp_path)
    there = UPath(f"memory://{tmp_path.name}/set.npz")
    there.parent.mkdir(parents=True)
    there.write_bytes((tmp_path / "set.npz").read_bytes())
    recipe = Recipe.from_config(ingest.recipe("medmnist", images=str(there)))
    records = list(recipe.make_source().records(1))
    read = records[0].image.read(recipe.reading)  # type: ignore[union-attr]
    np.testing.assert_array_equal(
        read.pixels, Member(tmp_path / "set.npz", "train_images", 0).read(recipe.reading).pixels
    )
    assert records[0].size == (tmp_path / "set.npz").stat().st_size

    class Hiccup(Exception):  # noqa: N818 (as the libraries of stores raise them, and errors without a number)
        pass

    for failure in (Hiccup("throttled"), OSError("connection lost")):
        mapped_array.cache_clear()
        with monkeypatch.context() as store:
            store.setattr(type(there.fs), "cat_file", lambda *_, failure=failure, **__: (_ for _ in ()).throw(failure))
            store.setattr(type(there.fs), "_open", lambda *_, failure=failure, **__: (_ for _ in ()).throw(failure))
            with pytest.raises(OSError, match=r"throttled|connection lost") as raised:
                records[0].image.read(recipe.reading)  # type: ignore[union-attr]
            assert raised.value.errno
