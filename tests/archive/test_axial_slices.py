"""``recipe.slices=axial``: volumes become a dataset of 2D images, whatever file they were in."""

import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK
from archive import ingest
from archive.imaging.volumes import make

from dira_scale.archive.recipe import Recipe
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.verify import verify
from dira_scale.shard.survey import survey_and_print

ALL = {"train": 1.0, "val": 0, "test": 0}
RAS = np.array([[0.7, 0, 0, -20], [0, 0.7, 0, -30], [0, 0, 2, 40], [0, 0, 0, 1]])
Z, Y, X = 20, 24, 28


def body(seed: int = 0) -> np.ndarray:
    """HU [X, Y, Z] to the right, front and head; no symmetry; air in the three slices next to the head."""
    values: np.ndarray = make.smooth((X, Y, Z), seed).clip(-900, 1200)
    values[..., -3:] = -1000
    return values


def nifti(path: Path, values: np.ndarray, codes: str = "RAS", affine: np.ndarray = RAS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values.astype(np.int16), affine)
    image.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        )
    ).to_filename(path)
    return path


def series(folder: Path, values: np.ndarray, **tags: Any) -> Path:
    """A volume as DICOM: rows run to the left, columns to the back."""
    planes = values[::-1, ::-1].transpose(2, 1, 0)
    corner = (20 - 0.7 * (X - 1), 30 - 0.7 * (Y - 1), 40)
    make.series(folder, planes, corner, PixelSpacing=[0.7, 0.7], **tags)
    return folder


def shown(values: np.ndarray, z: int, low: float, high: float, levels: int = 255) -> np.ndarray:
    """The slice in front of a reader, who looks from the feet: rows from front to back, columns from right to left."""
    rows = values[::-1, ::-1, z].T
    return (np.clip(rows, low, high) - low) / (high - low) * levels


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., ShardedDataset]:
    """``shard(images, KEY=…)``: converted with ``recipe=volumes recipe.slices=axial``, verified and opened."""

    def run(images: Path, out: str = "out", **keys: Any) -> ShardedDataset:
        convert(axial(images, **keys), tmp_path / out, workers=1)
        assert verify(tmp_path / out, 1) == []
        return ShardedDataset.open(tmp_path / out)

    return run


def axial(images: Path, **keys: Any) -> dict[str, Any]:
    keys = {"slices": "axial", "splits": ALL, "modality": "CT"} | keys
    return ingest.recipe("volumes", images=str(images), **keys)  # type: ignore[no-any-return]


def by_slice(dataset: ShardedDataset) -> dict[int, tuple[np.ndarray, dict[str, Any]]]:
    """Pixels and row of a dataset of one volume."""
    rows = dataset.table.to_pylist()
    return {
        int(dict(row["attributes"])["slice"]): (decode(dataset.read(n), row["codec"]), row)
        for n, row in enumerate(rows)
    }


@pytest.mark.parametrize("kind", ["PSL", "series"])  # other files: tests/archive/imaging/volumes
def test_slices_are_as_a_reader_sees_them(kind: str, tmp_path: Path, shard: Callable) -> None:
    values, images = body(), tmp_path / "images"
    images.mkdir()
    if kind == "series":
        series(images / "a", values)
    else:
        nifti(images / "a.nii.gz", values, kind)
    dataset = shard(images, window=[50, 400])
    assert (dataset.info.dims, dataset.info.codec, dataset.info.counts) == (2, "png", {"train": Z - 3})
    found = by_slice(dataset)
    assert sorted(found) == list(range(Z - 3))
    for z, (pixels, row) in found.items():
        np.testing.assert_allclose(pixels, shown(values, z, -150, 250), atol=0.51)
        assert (row["height"], row["width"], row["depth"], row["channels"], row["bits"]) == (Y, X, 1, 1, 8)
        assert (row["low"], row["high"], row["affine"]) == (0, 255, None)
        np.testing.assert_allclose(row["spacing"], (0.7, 0.7), rtol=1e-5)
        assert float(dict(row["attributes"])["position"]) == 40 + 2 * z
        assert row["key"].endswith(f"-{z:04d}")


@pytest.mark.parametrize("window, low, high", [(None, -1000, 1000), ("lung", -1350, 150)])
def test_windows_and_depths(window: Any, low: float, high: float, tmp_path: Path, shard) -> None:
    values = body()
    nifti(tmp_path / "images/a.nii", values)
    for bits, levels in ((8, 255), (16, high - low)):  # 16 bits: a level for each HU
        found = by_slice(shard(tmp_path / "images", f"out{bits}", window=window, bits=bits))
        for z, (pixels, row) in found.items():
            assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16) and row["high"] == levels
            np.testing.assert_allclose(pixels, shown(values, z, low, high, levels), atol=0.51)


def test_mr_is_windowed_by_the_percentiles_of_its_volume(tmp_path: Path, shard) -> None:
    values = (make.smooth((X, Y, Z)) + 900).clip(0)
    values[..., :2] = np.random.default_rng(0).integers(0, 20, (X, Y, 2))  # noise of the background
    nifti(tmp_path / "images/a.nii", values)
    dataset = shard(tmp_path / "images", modality="MR", volume=plain(range=None))
    low, high = np.percentile(values, (0.5, 99.5), method="inverted_cdf")
    found = by_slice(dataset)
    assert sorted(found) == list(range(2, Z)) and dataset.info.quarantined == 2
    for z, (pixels, _) in found.items():
        np.testing.assert_allclose(pixels, shown(values, z, low, high), atol=0.51)


def plain(**keys: Any) -> dict[str, Any]:
    return {"spacing": None, "clip": None, "range": [-1000, 1000], "crop": "none", "irregular": "resample"} | keys


def test_every_nth_slice_and_none_without_tissue(tmp_path: Path, shard, capsys: pytest.CaptureFixture) -> None:
    nifti(tmp_path / "images/a.nii", body())
    whole, thin = shard(tmp_path / "images"), shard(tmp_path / "images", "thin", every=4)
    assert capsys.readouterr().out.count("3 x a slice without tissue") == 1
    keys = {row["key"]: row["xxh3"] for row in whole.table.to_pylist()}
    assert {row["key"]: row["xxh3"] for row in thin.table.to_pylist()}.items() < keys.items()
    assert sorted(by_slice(thin)) == [0, 4, 8, 12, 16] and whole.info.quarantined == 3
    rejected = pq.read_table(tmp_path / "out/quarantine.parquet").to_pylist()
    assert {(row["stage"], row["reason"]) for row in rejected} == {("check", "a slice without tissue")}
    with (tmp_path / "out.rejected.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["a.nii/17", "a.nii/18", "a.nii/19"]
    survey_and_print(axial(tmp_path / "images", every=4), workers=1, key_file=None, count=1)
    assert "5 samples in 1 shard" in capsys.readouterr().out


def test_masks_boxes_and_labels_follow(tmp_path: Path, shard) -> None:
    values, mask = body(), np.zeros((X, Y, Z))
    mask[3:9, 5:12, 4:8] = 2
    nifti(tmp_path / "images/a.nii", values)
    nifti(tmp_path / "masks/a.nii.gz", mask, "PSL")
    nifti(tmp_path / "images/b.nii", body(1))
    rows = [
        {"file": "a.nii", "patient": "P1", "mask": "masks/a.nii.gz", "bad": 1},
        {"file": "b.nii", "patient": "P2", "mask": "", "bad": 0},
    ]
    # The file's axes are x to the right, y to the front, z to the head. One box is thinner than a slice.
    boxes = [{"file": "a.nii", "label": "n", "z": 4, "y": 5, "x": 3, "d": 4, "h": 7, "w": 6},
             {"file": "a.nii", "label": "thin", "z": 9.6, "y": 1, "x": 2, "d": 0.3, "h": 3, "w": 4}]  # fmt: skip
    columns = {"file": "file", "patient": "patient", "study": None, "split": None, "mask": "mask"}
    keys = {
        "labels": str(ingest.csv(tmp_path / "l.csv", rows)), "boxes": str(ingest.csv(tmp_path / "b.csv", boxes)),
        "columns": columns, "every": 2,
    }  # fmt: skip
    dataset = shard(tmp_path / "images", **keys)
    expected = np.flip(mask, (0, 1)).transpose(2, 1, 0)
    seen = 0
    for n, row in enumerate(dataset.table.to_pylist()):
        z, payload = int(dict(row["attributes"])["slice"]), dataset.read_mask(n)
        assert (row["labels"] == [1]) == (payload is not None)
        if payload is None:
            continue
        seen += 1
        np.testing.assert_array_equal(decode(payload, "png"), expected[z])
        names = {box["label"]: tuple(box[k] for k in "zyxdhw") for box in row["boxes"]}
        assert names.keys() == ({"n"} if 4 <= z < 8 else set())
        for location in names.values():
            np.testing.assert_allclose(location, (0, Y - 12, X - 9, 1, 7, 6), atol=1e-4)
    assert seen == 9
    whole = shard(tmp_path / "images", "whole", **keys | {"every": 1, "max_side": 16})
    thin = [row for row in whole.table.to_pylist() if {box["label"] for box in row["boxes"]} == {"thin"}]
    assert [dict(row["attributes"])["slice"] for row in thin] == ["9"]
    assert max(thin[0]["height"], thin[0]["width"]) == 16
    np.testing.assert_allclose(thin[0]["boxes"][0]["w"], 4 * 16 / X, rtol=1e-5)


def test_pixels_become_square(tmp_path: Path, shard) -> None:
    """As an axial cut of a sagittal MR has pixels of 2 x 0.7 mm; the reference interpolates by SimpleITK."""
    values, affine = body(), RAS @ np.diag([2 / 0.7, 1, 1, 1])
    path = nifti(tmp_path / "images/a.nii", values, affine=affine)
    found = by_slice(shard(tmp_path / "images"))
    image = SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32)
    for z, (pixels, row) in found.items():
        assert pixels.shape == (Y, 80) and np.allclose(row["spacing"], 0.7)
        height = image.TransformContinuousIndexToPhysicalPoint((X / 2 - 0.5, Y / 2 - 0.5, z))
        grid = SimpleITK.Image(80, Y, 1, SimpleITK.sitkFloat32)
        grid.SetSpacing((0.7, 0.7, 1))
        grid.SetOrigin((height[0] - 0.7 * 39.5, height[1] - 0.7 * (Y - 1) / 2, height[2]))
        expected = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, grid))[0]
        inside = slice(2, -2)  # beyond the outer voxels' centres the reference is 0
        reference = (np.clip(expected, -1000, 1000) + 1000) / 2000 * 255
        np.testing.assert_allclose(pixels[inside, inside], reference[inside, inside], atol=0.7)


def test_a_patient_is_in_one_split_and_a_shards_rows_mix_its_volumes(tmp_path: Path, shard) -> None:
    for number in range(8):
        series(tmp_path / f"images/{number}", body(number), SeriesInstanceUID=f"1.2.{number}",
               StudyInstanceUID=f"1.3.{number // 2}", PatientID=f"HOSP-{number // 2}")  # fmt: skip
    dataset = shard(tmp_path / "images", splits={"train": 0.5, "val": 0.5})
    rows = dataset.table.to_pylist()
    assert len(rows) == 8 * (Z - 3) and len({row["key"] for row in rows}) == len(rows)
    patients = {(row["patient"], row["study"]): row["split"] for row in rows}
    assert len(patients) == 4 == len({patient for patient, _ in patients})
    assert set(patients.values()) == {"train", "val"}
    volumes = [row["key"].partition("-")[0] for row in rows]
    neighbours = sum(one == other for one, other in pairwise(volumes))
    assert neighbours < len(rows) / 2  # in the order of the volumes it would be all but 7
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"HOSP-" not in everything


def test_several_channels_go_to_quarantine(tmp_path: Path, shard) -> None:
    nifti(tmp_path / "images/a.nii", body())
    nibabel.Nifti1Image(np.stack([body()] * 2, -1).astype(np.int16), RAS).to_filename(tmp_path / "images/b.nii")
    shard(tmp_path / "images")
    reasons = [row["reason"] for row in pq.read_table(tmp_path / "out/quarantine.parquet").to_pylist()]
    assert reasons.count("a volume of several channels: slices have one") == 1


@pytest.mark.parametrize(
    "name, keys, words",
    [
        ("volumes", {"slices": "axial", "window": "lungs"}, "recipe.window=lungs: .*; did you mean 'lung'"),
        ("volumes", {"slices": "axial", "window": [40, 0]}, r"recipe.window=\[40, 0\]: expected .* of a width above 0"),
        ("volumes", {"slices": "axial", "window": "lung", "modality": "MR"}, "recipe.window: .*, not MR"),
        ("lits", {"slices": "axial", "modality": "MR"}, r"recipe.volume.range=\[-1000, 1000\]: expected null"),
        ("volumes", {"slices": "axial", "codec": "b2nd"}, "recipe.codec=b2nd with recipe.slices=axial: .* slices as p"),
        ("volumes", {"window": "lung"}, "recipe.slices=null: expected axial, as every and window"),
        ("folder", {"slices": "axial"}, "recipe.slices=axial with recipe.dims=2: only volumes have slices"),
    ],
)
def test_impossible_slices_are_refused(name: str, keys: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Recipe.from_config(ingest.recipe(name, images="x", **keys))


def test_a_stack_of_few_slices_is_cut_but_is_no_volume(tmp_path: Path, shard: Callable[..., ShardedDataset]) -> None:
    values = np.random.default_rng(0).integers(-900, 900, (40, 44, 5))
    nifti(tmp_path / "images" / "thin.nii", values)
    assert shard(tmp_path / "images").table.num_rows == 5
    recipe = ingest.recipe("volumes", images=str(tmp_path / "images"), modality="CT")
    with pytest.raises(UserError, match=r"1 x fewer than 16 slices \(recipe\.min_side\)"):
        convert(recipe, tmp_path / "volumes", workers=1)
