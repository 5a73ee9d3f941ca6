"""A folder of volumes through the whole converter: what lies in the shards is what was read."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest

from dira_scale.archive.outcome import pretraining
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard.convert import convert
from dira_scale.shard.survey import survey_and_print


def test_series_masks_and_boxes_arrive(tmp_path: Path, make: SimpleNamespace, ingest: SimpleNamespace) -> None:
    images, rows, boxes, expected = tmp_path / "images", [], [], {}
    for number in range(4):
        values = make.smooth((18, 24, 28), number)
        make.series(images / f"ct{number}", values, SeriesInstanceUID=f"1.2.{number}", StudyInstanceUID=f"1.3.{number}",
                    PatientID=f"HOSP-774190{number}")  # fmt: skip
        affine = np.array([[-0.7, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 2, 40], [0, 0, 0, 1]])
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask = nibabel.Nifti1Image((values > 200).astype(np.uint8).T, affine)
        mask.as_reoriented(nibabel.orientations.axcodes2ornt("RAS")).to_filename(tmp_path / f"masks/{number}.nii.gz")
        rows.append(
            {"file": f"ct{number}", "patient": f"P{number}", "mask": f"masks/{number}.nii.gz", "bad": number % 2}
        )
        boxes.append({"file": f"ct{number}", "label": "x", "z": 3, "y": 4, "x": number, "d": 5, "h": 6, "w": 7})
        expected[number] = values
    make.series(images / "scout", make.smooth((2, 24, 28)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    columns = {"file": "file", "patient": "patient", "study": None, "split": None, "mask": "mask"}
    recipe = ingest.recipe(
        "volumes", images=str(images), labels=str(ingest.csv(tmp_path / "list.csv", rows)), columns=columns,
        boxes=str(ingest.csv(tmp_path / "boxes.csv", boxes)), splits={"train": 1.0, "val": 0, "test": 0},
    )  # fmt: skip
    convert(recipe, tmp_path / "out", workers=1)
    dataset = ShardedDataset.open(tmp_path / "out")
    assert dataset.table.num_rows == 4
    for row, sample in enumerate(dataset.table.to_pylist()):
        number = int(sample["boxes"][0]["x"])
        values = expected[number]
        assert (sample["depth"], sample["height"], sample["width"], sample["bits"]) == (18, 24, 28, 16)
        np.testing.assert_allclose(sample["spacing"], (2, 0.8, 0.7), rtol=1e-6)
        np.testing.assert_allclose(np.reshape(sample["affine"], (4, 4))[:3, 3], (20, 30, 40))
        assert (sample["low"], sample["high"], sample["labels"]) == (-1000, 1000, [number % 2])
        voxels = dataset.voxels(row)
        np.testing.assert_array_equal(voxels[2:9, 5:11, 7:20], values[2:9, 5:11, 7:20])
        np.testing.assert_array_equal(voxels[:], values)
        payload = dataset.read_mask(row)
        assert payload is not None
        np.testing.assert_array_equal(decode(payload, "b2nd"), values > 200)
    assert not pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()  # of what no row names
    info = replace(dataset.info, counts={"train": 640, "val": 1})
    assert pretraining(dataset.root, info).endswith(" data.pad=true")  # 18 x 24 x 28 voxels are smaller than a crop
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"HOSP-774190" not in everything


def test_slices_that_are_filled_in_are_reported(
    tmp_path: Path, make: SimpleNamespace, ingest: SimpleNamespace, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    """One of four series lacks a slice, one lacks two and one, one is uneven but whole."""
    for module in ("shard.survey", "archive.writer"):  # threads start at once
        monkeypatch.setattr(f"dira_scale.{module}.worker_pool", lambda workers, *_: ThreadPoolExecutor(workers))
    locations = [range(18), [*range(5), *range(6, 18)], [*range(5), *range(7, 12), *range(13, 18)], range(18)]
    for number, there in enumerate(locations):
        values, shift = make.smooth((18, 24, 28), number), 0.3 if number == 3 else 0
        make.series(tmp_path / f"images/ct{number}", values[list(there)], SeriesInstanceUID=f"1.2.{number}",
                    StudyInstanceUID=f"1.3.{number}", PatientID=f"P{number}",
                    step=lambda k, there=there, shift=shift: (0, 0, 2 * there[k] + shift * (k > 9)))  # fmt: skip
    config = ingest.recipe("volumes", images=str(tmp_path / "images"), splits={"train": 1.0, "val": 0, "test": 0})
    survey_and_print(config, workers=1, key_file=None, count=1)
    assert "4 slices missing in 2 volumes, to be interpolated" in capsys.readouterr().out
    convert(config, tmp_path / "out", workers=1)
    assert "filled in: 4 slices missing in 2 volumes" in capsys.readouterr().out
    dataset = ShardedDataset.open(tmp_path / "out")
    reported = {
        dataset.voxels(n)[0].tobytes(): dict(row["attributes"]) for n, row in enumerate(dataset.table.to_pylist())
    }
    filled = [reported[make.smooth((18, 24, 28), number)[0].astype(np.int16).tobytes()] for number in range(4)]
    assert filled == [{}, {"filled_slices": "1"}, {"filled_slices": "3"}, {}]
    config["volume"]["irregular"] = "refuse"
    survey_and_print(config, workers=1, key_file=None, count=1)
    assert "4 slices missing in 2 volumes, to be rejected" in capsys.readouterr().out
    convert(config, tmp_path / "refused", workers=1)
    assert "filled in" not in capsys.readouterr().out
    assert ShardedDataset.open(tmp_path / "refused").table.num_rows == 1
