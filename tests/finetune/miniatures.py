"""Published datasets of volumes, in the layout of each: patients enough for splits that can be learned and judged.

Few of their quirks are here; those are in ``archive.sources.miniatures``, whose writers these use.
"""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from archive.ingest import dicom as write_dicom
from archive.ingest import recipe
from archive.sources.miniatures import write_text
from archive.sources.miniatures_3d import body, readings, walk, write_nifti

from dira_scale.shard.convert import convert


def sharded(name: str, root: Path, **more: Any) -> Path:
    """The miniature of the recipe ``name``, made and sharded by it below ``root``. ``more`` of the recipe's keys."""
    keys = MAKERS[name](root / "source") | {"name": "miniature", "min_side": 8} | more
    convert(recipe(name, **keys), root / "shards", 1)
    return root / "shards"


def drawn(mask: np.ndarray, seed: int) -> np.ndarray:
    """Return the ``mask`` without a tenth of its voxels, so that there is an error that nobody can learn to avoid."""
    return mask * (np.random.default_rng(seed).random(mask.shape) < 0.9).astype(np.uint8)


def lits(root: Path) -> dict[str, Any]:
    """Livers of 60 HU more than what is around them, each with a lesion; four to train on, two and two held out."""
    for n in (0, 1, 2, 3, 100, 101, 115, 116):
        liver = np.zeros((30, 32, 26), np.uint8)  # x, y, z
        liver[8 + n % 4 : 22, 6:24, 5:20], liver[12:16, 9:12, 10:16] = 1, 2
        write_nifti(root / f"volume-{n}.nii", (body(n, liver.shape) // 8 + 60 * (liver > 0)).astype(np.int16))
        write_nifti(root / f"segmentation-{n}.nii", drawn(liver, n))
    return {"images": str(root)}


def brats(root: Path) -> dict[str, Any]:
    """An oedema with necrosis and enhancing tumour in it; each modality has a scale of its own."""
    for n in range(10):
        tumour, name = np.zeros((24, 28, 22), np.uint8), f"Brats18_{n}"
        tumour[6 + n % 4 : 20, 8:22, 5:17], tumour[10:16, 10:18, 8:14], tumour[12:15, 12:17, 9:12] = 2, 1, 4
        for m, modality in enumerate(("flair", "t1", "t1ce", "t2")):
            values = abs(body(10 * n + m, tumour.shape)) // 9 + 50 * tumour
            write_nifti(root / "HGG" / name / f"{name}_{modality}.nii.gz", (values * (1 + 9 * m)).astype(np.int16))
        write_nifti(root / "HGG" / name / f"{name}_seg.nii.gz", drawn(tumour, n))
    return {"images": str(root), "splits": {"train": 0.5, "val": 0.25, "test": 0.25}}


def lidc_nodules(root: Path) -> dict[str, Any]:
    """Two nodules in each of ten scans, which two readers agree on."""
    for n in range(10):
        uid, values = f"1.3.6.{n}", body(n, (12, 36, 36)) // 8 - 900
        outlines = []
        for first in (6, 18):
            values[4:8, first : first + 9, 12:22] = 100
            edge = walk(slice(first + n % 2, first + 9), slice(12, 22))  # of half of them a row is left out
            outlines.append((4, [(f"{uid}.{z}", True, edge) for z in range(4, 8)]))
        for z in range(12):
            write_dicom(
                root / uid / f"{z}.dcm", (values[z] + 1024).astype(np.uint16), Modality="CT",
                SOPClassUID="1.2.840.10008.5.1.4.1.1.2", PatientID=f"LIDC-IDRI-{n:04d}", StudyInstanceUID=f"1.2.{n}",
                SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.{z}", ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
                ImagePositionPatient=[0, 0, 2.5 * z], PixelSpacing=[0.9, 0.9], SliceThickness=2.5, RescaleSlope=1,
                RescaleIntercept=-1024, Manufacturer="GE MEDICAL SYSTEMS",
            )  # fmt: skip
        readings(root / f"{n}.xml", uid, [outlines, outlines])
    return {"images": str(root)}


def luna16_candidates(root: Path) -> dict[str, Any]:
    """Four bright nodules in each of nine scans, and twelve candidates where there is none."""
    lists = {"annotations": ["seriesuid,coordX,coordY,coordZ,diameter_mm"],
             "candidates_V2": ["seriesuid,coordX,coordY,coordZ,class"]}  # fmt: skip
    lists["annotations_excluded"] = lists["annotations"][:]
    for n, fold in enumerate((0, 1, 2, 3, 4, 5, 6, 7, 8)):
        values = body(n, (24, 48, 48))
        middles = [(x, y, z) for z in (6, 17) for y in (18, 30) for x in (10, 18, 26, 34)]
        order = np.random.default_rng(n).permutation(16)
        for place, (x, y, z) in enumerate(middles[m] for m in order):
            if place < 4:
                values[z - 2 : z + 2, y - 2 : y + 2, x - 2 : x + 2] += 500
                lists["annotations"].append(f"1.{n},{x},{y},{z},4")
            lists["candidates_V2"].append(f"1.{n},{x},{y},{z},{int(place < 4)}")
        (root / f"subset{fold}").mkdir(parents=True)
        sitk.WriteImage(sitk.GetImageFromArray(values), root / f"subset{fold}" / f"1.{n}.mhd")
    for name, lines in lists.items():
        write_text(root / f"{name}.csv", *lines)
    return {"images": str(root), "patch": [8, 16, 16]}


MAKERS = {"lits": lits, "brats": brats, "lidc_nodules": lidc_nodules}
MAKERS |= {"luna16_candidates": luna16_candidates}
