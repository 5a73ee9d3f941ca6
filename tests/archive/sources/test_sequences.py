"""Sequences of a session as channels: ranges of their own, one grid; those that lack, are there twice or lie apart."""

import json
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from archive import ingest
from archive.imaging.volumes import make
from archive.sources import miniatures_3d
from archive.sources.layouts import PATTERNS, config, listed
from scipy.ndimage import gaussian_filter

from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.settings import ReadSettings, VolumeSettings
from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.sequences import _regex
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.judge.evaluation.inference import Stored
from dira_scale.predict.dicomseg import _paths
from dira_scale.predict.folder import FolderImages
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.stats import Stats
from dira_scale.shard.curate.verify import verify
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples

REFUSED = UserError, ArgumentError

READING = ReadSettings(3, "MR", 16, "keep", VolumeSettings(None, None, None, "none", "resample"))


def test_each_channel_has_its_range_and_a_lacking_one_none(
    tmp_path: Path, shards: Callable, capsys: pytest.CaptureFixture
) -> None:
    made = miniatures_3d.sessions(tmp_path)
    kept = shards("sequences", images=tmp_path, sequences=PATTERNS, secret=False, missing="keep")
    info = kept.dataset.info
    assert (info.format_version, info.channels) == (4, ["T1", "FLAIR"])
    croissant = json.loads((kept.dataset.root / "croissant.json").read_text())
    assert croissant["variableMeasured"] == ["T1", "FLAIR"]
    fields = {field["@id"]: field for field in croissant["recordSet"][0]["field"]}
    assert fields["samples/low"]["arrayShape"] == "2" and "isArray" not in fields["samples/size"]
    for name, (channels, _) in made.items():
        limits = np.array([np.percentile(each, [0.5, 99.5], method="inverted_cdf") for each in channels], float)
        limits[[not each.any() for each in channels]] = np.nan
        row = kept.row(name)
        np.testing.assert_array_equal(np.transpose([row["low"], row["high"]]), limits)
    assert Stats(kept.dataset).lacking == {"FLAIR": 1}
    assert not verify(kept.dataset.root, 1)
    folder = FolderImages(str(tmp_path), info.recipe, 3, "source", None, 1)  # as `predict images=` reads it
    assert folder.keys == sorted(made)
    for number, name in enumerate(folder.keys):
        samples = Samples([kept.dataset], kept.row(name)["split"])
        stored = Stored.of(SampleReader(samples), 0)
        assert len(samples) == 1  # of three patients' sessions in three splits
        assert torch.equal(folder.load(number).stored.image(), stored.image())
    rejected = shards("sequences", images=tmp_path, sequences=PATTERNS, secret=False, missing="reject")
    assert len(rejected) == 2 and "without 1 of the sequences (recipe.missing)" in rejected.rejected("c").values()
    alone = shards("sequences", images=tmp_path, sequences=PATTERNS, secret=False, split_sequences=True)
    assert (alone.dataset.info.format_version, len(alone)) == (3, 5)
    assert alone.row("ward/a T1")["study"] == alone.row("ward/a FLAIR")["study"] != alone.row("ward/b T1")["study"]
    assert alone.row("ward/a T1")["patient"] == alone.row("ward/a FLAIR")["patient"]
    np.testing.assert_array_equal(alone.pixels("ward/a FLAIR"), made["ward/a"][0][1])


def turned(degrees: float, spacing: float, corner: tuple[float, float, float]) -> np.ndarray:
    """An affine that is turned about z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * spacing
    affine[:3, 3] = corner
    return affine


@pytest.mark.parametrize(
    "spacing, degrees", [(1.0, 0), (0.7, 20), (3.0, 0)], ids=["shifted", "turned and finer", "coarser"]
)
def test_another_grid_is_resampled_as_simpleitk_does(tmp_path: Path, spacing: float, degrees: float) -> None:
    """The first is on the grid of 1 mm, 3 mm or turned; the second, always of 1 mm, goes there."""
    g = np.random.default_rng(0)
    affines = turned(degrees, spacing, (2.3, -1.2, 0.4)), np.eye(4)
    shapes = (20, 22, 18) if spacing < 2 else (9, 9, 8), (26, 26, 20)
    for name, shape, affine in zip(("a", "b"), shapes, affines, strict=True):
        values = gaussian_filter(g.normal(0, 900, shape), 1).astype(np.int16) + 400
        nib.save(nib.Nifti1Image(values.astype(np.int16), affine), tmp_path / f"{name}.nii")
    read = Channels(("A", "B"), (tmp_path / "a.nii", tmp_path / "b.nii")).read(READING)
    assert read.notes == ("B was resampled to the grid of A",) and read.voxels.shape[0] == 2
    first, second = (sitk.ReadImage(tmp_path / f"{name}.nii", sitk.sitkFloat32) for name in ("a", "b"))
    if spacing > 1:
        smooth = sitk.GetImageFromArray(
            gaussian_filter(sitk.GetArrayFromImage(second), (spacing - 1) / 2, mode="nearest")
        )
        smooth.CopyInformation(second)
        second = smooth
    darkest = float(np.asarray(nib.load(tmp_path / "b.nii").dataobj).min())
    expected = sitk.Resample(second, first, sitk.Transform(), sitk.sitkLinear, darkest)
    axial = sitk.GetArrayFromImage(sitk.DICOMOrient(expected, "LPS"))
    assert (axial == darkest).any() and (axial != darkest).mean() > 0.5
    off = np.abs(read.voxels[1] - axial)
    assert (off > 0.51).mean() < 0.002  # a voxel at the edge, where rounding decides whether it is within


def test_what_cannot_be_one_session_says_why(tmp_path: Path) -> None:
    miniatures_3d.sessions(tmp_path)
    (tmp_path / "ward/a_t1.nii.gz").with_name("a_t1.nii").write_bytes(b"again")
    apart = nib.load(tmp_path / "ward/b_flair.nii")
    moved = apart.affine.copy()
    moved[:3, 3] += 500
    nib.save(nib.Nifti1Image(np.asarray(apart.dataobj), moved), tmp_path / "far.nii")
    reasons = {record.name: record.rejected for record in listed("sequences", tmp_path)}
    assert reasons.pop("ward/a").startswith("T1: 2 files of one session match its pattern; make it narrower")
    assert set(reasons.values()) == {None}
    with pytest.raises(RejectedError, match="FLAIR and T1 overlap by less than half, by their positions"):
        Channels(("T1", "FLAIR"), (tmp_path / "ward/b_t1.nii.gz", tmp_path / "far.nii")).read(READING)
    alone = Channels(("T1", "FLAIR"), (tmp_path / "ward/b_t1.nii.gz", None)).read(READING)
    assert alone.notes == ("FLAIR is lacking",) and not alone.voxels[1].any()
    (tmp_path / "flat.nii").write_bytes(b"no NIfTI")
    with pytest.raises(RejectedError, match="FLAIR: not a NIfTI"):
        Channels(("T1", "FLAIR"), (tmp_path / "ward/b_t1.nii.gz", tmp_path / "flat.nii")).read(READING)
    (tmp_path / "table.csv").write_text(
        "file,patient\nward/a_t1.nii,p\nward/b_t1.nii.gz,p\nward/b_flair.nii,p\ngone,q\n"
    )
    reasons = {record.name: record.rejected for record in listed("sequences", tmp_path)}
    assert "several rows of the CSV" in reasons["ward/b"] and "c" not in reasons
    assert reasons["gone"] == "named in the CSV, not there"
    (tmp_path / "none").mkdir()
    (tmp_path / "table.csv").write_text("file,patient\nnone,q\n")
    reasons = {record.name: record.rejected for record in listed("sequences", tmp_path)}
    assert reasons["none"] == "no sequence is there"
    with pytest.raises(
        (UserError, ArgumentError), match=r"recipe\.slices=axial of several channels \(T1, FLAIR\): slices have one"
    ):
        convert(config("sequences", tmp_path, slices="axial"), tmp_path / "out", 1)


def test_sequences_are_samples_with_their_own_rows_and_patients(tmp_path: Path) -> None:
    """A pattern for patients meets the file's path, also where a sample is of one file."""
    miniatures_3d.sessions(tmp_path)
    alone: dict[str, Any] = {"split_sequences": True, "mask": None}
    keys = {"labels": None, "columns": {}, "label_columns": None, "patient_pattern": r"(?:^|/)(\w)_"}
    patients = {record.name: record.patient for record in listed("sequences", tmp_path, **alone, **keys)}
    assert patients == {f"ward/{n} {s}": n for n in "ab" for s in ("T1", "FLAIR")} | {"c T1": "c"}
    rows = ["ward/a_t1.nii.gz,p,1", "ward/a_flair.nii,p,0", "ward,q,1", "c_t1.nii.gz,r,"]
    (tmp_path / "table.csv").write_text("\n".join(["file,patient,sick", *rows]) + "\n")
    made = {record.name: (record.patient, *record.labels) for record in listed("sequences", tmp_path, **alone)}
    assert made.pop("c T1")[0] == "r"
    first = {"ward/a T1": ("p", 1.0), "ward/a FLAIR": ("p", 0.0)}
    assert made == first | dict.fromkeys(["ward/b T1", "ward/b FLAIR"], ("q", 1.0))


def test_patterns_that_overlap_are_refused(tmp_path: Path) -> None:
    """Else a session without T1 would have its FLAIR twice."""
    miniatures_3d.sessions(tmp_path)
    patterns = {"T1": "*_*.nii*", "FLAIR": "*_flair.nii*"}
    with pytest.raises(ArgumentError, match="expected patterns of which one matches, not both T1 and FLAIR, ward/a_fl"):
        listed("sequences", tmp_path, sequences=patterns, mask=None)
    with pytest.raises(UserError, match=r"volume.clip=\[0, 9\] of several channels \(T1, FLAIR\), which have ranges"):
        given = config("sequences", tmp_path)
        convert(given | {"volume": {**given["volume"], "clip": [0, 9]}}, tmp_path / "out", 1)


def test_what_bids_does_not_know_is_no_class(tmp_path: Path) -> None:
    miniatures_3d.bids(tmp_path)
    with (tmp_path / "participants.tsv").open("a") as file:
        file.write("sub-03\t9\tF\tcontrol\n")
    (tmp_path / "sub-03").mkdir()
    source = Recipe.from_config(config("bids", tmp_path, class_columns=["group"])).make_source()
    assert source.classes == {"group": ("control", "patient")}
    records = {record.name: record for record in source.records(1)}
    assert math.isnan(records["sub-02/ses-a"].labels[-1]) and records["sub-01"].labels[-1] == 1
    assert records["sub-03"].rejected == "no sequence is there"


@pytest.mark.parametrize("name", ["brats", "msd"])
def test_other_sources_of_channels_are_predicted_as_they_were_stored(
    name: str, tmp_path: Path, shards: Callable
) -> None:
    """By ranges of each channel, and not each file of BraTS by itself."""
    kinds = ("flair", "t1")
    if name == "msd":
        miniatures_3d.msd(tmp_path, channels=2)
        made, folder = shards(name, images=tmp_path), tmp_path / "imagesTs"
    else:
        miniatures_3d.brats(tmp_path, kinds)
        made, folder = shards(name, images=tmp_path, modalities=[*kinds]), tmp_path / "BraTS20_Training_355"
    images = FolderImages(str(folder), made.dataset.info.conversion, 3, "source", None, 1)
    assert len(images.keys) == 1
    row = made.row("prostate_03" if name == "msd" else "BraTS20_Training_355")
    samples = Samples([made.dataset], row["split"])
    (number,) = (n for n in range(len(samples)) if made.dataset.cell("key", samples.rows[0][n]) == row["key"])
    assert torch.equal(images.load(0).stored.image(), Stored.of(SampleReader(samples), number).image())


def test_series_of_a_study_are_found_by_their_descriptions(tmp_path: Path, shards: Callable) -> None:
    """Two studies of one patient, the second without T2; a scout, and a series that nobody asked for."""
    values = {}
    for number, (study, description) in enumerate((("1", "AX T1 MPRAGE"), ("1", "ax t2 flair"), ("2", "AX T1 MPRAGE"))):
        values[study, description] = make.smooth((18, 24, 20), number)
        make.series(tmp_path / f"in/{number}", values[study, description], Modality="MR", PatientSex="F",
                    StudyInstanceUID=f"1.3.{study}", SeriesInstanceUID=f"1.2.{number}",
                    SeriesDescription=description)  # fmt: skip
    make.series(tmp_path / "in/dwi", make.smooth((18, 24, 20), 9), Modality="MR", SeriesDescription="DWI",
                StudyInstanceUID="1.3.1", SeriesInstanceUID="1.2.9")  # fmt: skip
    make.series(tmp_path / "in/scout", make.smooth((2, 24, 20), 9), Modality="MR", SeriesDescription="t1 scout",
                ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.2.8")  # fmt: skip
    keys = {"images": tmp_path / "in", "series": {"T1": "*t1*", "T2": "*T2*"}, "attributes": ["sex"], "secret": False}
    made = shards("sequences", **keys)
    first, second = (f"HOSP-7741903 1.3.{study}" for study in "12")
    np.testing.assert_array_equal(made.pixels(first), [values["1", "AX T1 MPRAGE"], values["1", "ax t2 flair"]])
    np.testing.assert_array_equal(made.pixels(second)[0], values["2", "AX T1 MPRAGE"])
    assert np.isnan(made.row(second)["low"]).tolist() == [False, True] and made.attributes(first) == {"sex": "F"}
    assert len(made) == 2 and made.row(first)["patient"] == made.row(second)["patient"]
    (tmp_path / "in/0/broken.dcm").write_bytes(next((tmp_path / "in/1").iterdir()).read_bytes()[:154])
    (tmp_path / "in/0/note.txt").write_text("no DICOM")
    source = Recipe.from_config(ingest.recipe("sequences", **keys)).make_source()
    refused = {record.name: record.rejected for record in source.records(1) if record.rejected}
    assert [*refused] == ["0/broken.dcm"] and "DICOM header is damaged" in refused["0/broken.dcm"]
    item = FolderImages(str(tmp_path / "in"), made.dataset.info.conversion, 3, "source", None, 1).items
    assert [len(_paths(each)) for each in item if not each.record.rejected] == [18, 18]  # slices of the first sequence


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    for glob in ("*" * 60 + "b", "*a" * 60 + "*b", "*/" * 5 + "*?" * 40 + "b"):
        assert not _regex(glob).fullmatch("/".join(["a" * 60] * 6))


def test_a_pattern_matches_as_python_without_haste() -> None:
    """Each star tried at each length; the folder, and what the first star stands for, are of the session's name."""
    rng = random.Random(0)
    parts = {"*": "([^/]*)", "?": "[^/]"}
    matched = 0
    for _ in range(20_000):
        glob, path = ("".join(rng.choices(letters, k=rng.randrange(1, 9))) for letters in ("aab**?/.", "aab/."))
        plain = re.compile("((?:.*/)?)" + "".join(parts.get(each) or re.escape(each) for each in glob)).fullmatch(path)
        fast = _regex(glob).fullmatch(path)
        assert (plain and plain.groups()[:2]) == (fast and fast.groups()[:2]), (glob, path)
        matched += plain is not None
    assert matched > 100
