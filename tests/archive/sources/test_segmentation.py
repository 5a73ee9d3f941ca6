"""Masks: those of BraTS, the decathlon and LIDC's cut-outs voxel by voxel, JSRT's outlines, SIIM's run lengths."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from archive.sources import miniatures, miniatures_3d
from archive.sources.miniatures import write_text
from needs import real_data

from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.sources.lidc_idri import LidcVois
from dira_scale.archive.sources.siim_acr import RunLengths
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError


def test_the_decathlon_says_which_tasks_are_ct(tmp_path: Path, shards: Callable) -> None:
    miniatures_3d.msd(tmp_path / "Task03")
    info = shards("msd", images=tmp_path / "Task03").dataset.info
    assert info.modality == "MR" and info.recipe["volume"]["range"] is None
    content = json.loads((tmp_path / "Task03/dataset.json").read_text())
    write_text(tmp_path / "Task03/dataset.json", json.dumps(content | {"modality": {"0": "CT"}}))
    info = shards("msd", images=tmp_path / "Task03").dataset.info
    assert info.modality == "CT" and info.recipe["volume"]["range"] == [-1000, 1000]


@pytest.mark.data
def test_the_real_cut_outs(tmp_path: Path, shards: Callable) -> None:
    """The whole table; the volumes and masks of its first forty lines."""
    source = real_data("lidc_vois")
    records = list(LidcVois(str(source)).records(2))
    assert len(records) == 996 and len({record.patient for record in records}) == 551
    gone = {record.name for record in records if record.rejected}
    assert gone == {f"LIDC-IDRI-1002_R_{n}.nii.gz" for n in (1, 2)}
    malignant = [record.labels[0] for record in records]
    assert (malignant.count(0), malignant.count(1)) == (650, 346)
    assert sum(record.labels[1] == 3 for record in records) == 364
    names = [record.name for record in records[:40]]
    head, *lines = (source / "metadata.csv").read_text().splitlines()
    write_text(tmp_path / "vois" / "metadata.csv", head, *lines[:40])
    for folder in ("image", "nodule_mask"):
        (tmp_path / "vois" / folder).mkdir()
        for name in names:
            (tmp_path / "vois" / folder / name).symlink_to(source / folder / name)
    write_text(tmp_path / "vois" / "image" / "stray.nii.gz", "no line")
    dataset = shards("lidc_vois", images=tmp_path / "vois")
    assert len(dataset) == 40 and dataset.rejected("stray.nii.gz") == {"stray.nii.gz": "no line in the table"}
    for name in names:
        np.testing.assert_array_equal(dataset.pixels(name), miniatures_3d.axial(nib.load(source / "image" / name)))
        mask = miniatures_3d.axial(nib.load(source / "nodule_mask" / name))
        np.testing.assert_array_equal(dataset.mask(name), mask)


def test_cut_outs_lack_a_column(tmp_path: Path) -> None:
    write_text(tmp_path / "metadata.csv", "patient_id,nodule_id,seriesuid,Diagnosis_value")
    with pytest.raises((UserError, ArgumentError), match="expected a folder that has one named image"):
        LidcVois(str(tmp_path))
    (tmp_path / "image").mkdir()
    with pytest.raises((UserError, ArgumentError), match=r"metadata\.csv has no column 'Malignancy_value'"):
        list(LidcVois(str(tmp_path)).records(1))


def test_lungs_alone_and_shrunken_in_8_bits(tmp_path: Path, shards: Callable) -> None:
    made = miniatures.jsrt(tmp_path)
    dataset = shards(
        "jsrt", images=tmp_path / "JSRT", masks=str(tmp_path / "SCR"), structures=["lungs"], max_side=1024, bits=8
    )
    expected = np.zeros((1024, 1024), np.uint8)
    for n in (0, 1):
        expected[100 + 50 * n : 400 + 50 * n, 200 + 80 * n : 500 + 80 * n] = 1
    np.testing.assert_array_equal(dataset.mask("JPCLN001.IMG"), expected)
    assert dataset.mask("JPCNN001.IMG") is not None  # its heart is not asked for
    assert dataset.row("JPCLN001.IMG")["spacing"] == pytest.approx([0.35, 0.35])
    assert dataset.boxes("JPCLN001.IMG")[0][5] == pytest.approx(15 / 0.35)
    inner = made["JPCLN001.IMG"][0][200:202, 200:202].mean() / 4095 * 255
    assert dataset.pixels("JPCLN001.IMG")[100, 100] == pytest.approx(inner, abs=2)


LONG = 2**63 - 1  # two of them overflow an int64


@pytest.mark.parametrize(
    "region",
    ["3", "0 4 x 2", "0 101", "90 5 5 1", "4 -1", "-1 4", "1.5 2", "0 99999999999999999999", f"{LONG} {LONG} 2 1"],
)
def test_runs_that_are_none_are_refused(region: str) -> None:
    image = GreyImage(np.zeros((10, 10), np.uint8), 0, 255, None)
    with pytest.raises(RejectedError, match="run lengths"):
        RunLengths((region,)).paint(image)


def test_runs_by_hand() -> None:
    """Three rows, two columns: skip one pixel, two of the first column; skip one, the second column's last two."""
    mask = RunLengths(("1 2 1 2",)).paint(GreyImage(np.zeros((3, 2), np.uint8), 0, 255, None))
    np.testing.assert_array_equal(mask, [[0, 0], [255, 255], [255, 255]])
