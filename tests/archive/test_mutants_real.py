"""Damaged copies of real files among the whole ones: DICOM of many syntaxes, PNG, JPEG; NIfTI, NRRD, MetaImage."""

import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK
from archive import mutants
from archive.sandbox import convert_good, paths_of, survived
from needs import REAL, real_data

from dira_scale.archive.sources.base import SourceRecord

pytestmark = pytest.mark.data
SAMPLES = {  # by dimensions: how many of each
    2: {"dicom_cornerstone_ct/*.dcm": 99, "dicom_pydicom_data/*.dcm": 99, "dicom_lungmask_ct/*.dcm": 1,
        "chestxray14_nih12_1024/**/*.png": 1, "chestxray14_nih1000_64/images/*.png": 3, "shenzhen_256/images/*.png": 2,
        "pediatric_pneumonia_224/images/**/*.jpeg": 3},
    3: {"msd_hippocampus/images/*.nii.gz": 6, "lidc_vois/image/*.nii.gz": 6, "volumes_misc/CT_*.nii.gz": 1,
        "totalsegmentator_ct/**/example_ct*.nii.gz": 1, "pyradiomics_nrrd/data/*.nrrd": 2},
}  # fmt: skip


def sampled(dims: int) -> list[Path]:
    found, _ = [], real_data()
    for pattern, count in SAMPLES[dims].items():
        paths = sorted(REAL.glob(pattern))
        assert paths, f"{REAL / pattern} is absent"
        found += paths[:: max(1, len(paths) // count)][:count]
    return found


def as_metaimage(path: Path, folder: Path) -> list[Path]:
    """A real volume as the other kind of file, whole and in two parts: none of the real ones is of it."""
    image = SimpleITK.ReadImage(str(path))
    for key in image.GetMetaDataKeys():  # NIfTI's own, of which the writer would warn
        image.EraseMetaData(key)
    for name in ("whole.mha", "parts.mhd"):
        SimpleITK.WriteImage(image, str(folder / name))
    return [folder / "whole.mha", folder / "parts.mhd"]


def spoilt(paths: list[Path], count: int, inputs: Path) -> list[str]:
    """``count`` damaged copies, each in a folder ``m0000`` of its own; what was done to each."""
    rng, kinds = random.Random(count), []
    for number in range(count):
        path, place = paths[number % len(paths)], inputs / f"m{number:04d}"
        place.mkdir()
        if path.suffix == ".mhd":
            shutil.copy(path.with_suffix(".raw"), place)
        kind, content = mutants.damaged(path.read_bytes(), rng)
        (place / path.name).write_bytes(content)
        kinds.append(f"{kind}: {path.suffix}")
    return kinds


@pytest.mark.parametrize(
    "dims, count",
    [
        pytest.param(2, 40, marks=pytest.mark.system),
        pytest.param(2, 600, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
        pytest.param(3, 200, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
    ],
)
def test_damaged_copies(sandbox: Path, ingest: SimpleNamespace, dims: int, count: int) -> None:
    inputs = sandbox / "inputs"
    paths = sampled(dims)
    if dims == 3:
        paths += as_metaimage(sorted(REAL.glob("msd_hippocampus/images/*.nii.gz"))[0], sandbox / "scratch")
    if count < len(paths):  # the system tier takes a part of them
        paths = random.Random(0).sample(paths, count)
    for number, path in enumerate(paths):
        (inputs / f"good{number}").mkdir()
        shutil.copy(path, inputs / f"good{number}")
        if path.suffix == ".mhd":
            shutil.copy(path.with_suffix(".raw"), inputs / f"good{number}")
    keys = {"burned_in": "keep", "min_side": "3"}
    alone = convert_good(sandbox, "out-alone", dims, **keys)
    assert len(alone.rows) > len(paths) / 2
    kinds = spoilt(paths, count, inputs)

    def kind(record: SourceRecord) -> str:
        folder = paths_of(record)[0].relative_to(inputs).parts[0]
        return kinds[int(folder[1:])] if folder.startswith("m") else "good"

    survived(sandbox, ingest, dims, alone, kind, **keys)
