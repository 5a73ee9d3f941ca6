"""Published datasets of volumes, made small, as ``miniatures``."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
from archive import ingest
from archive.sources.miniatures import Stored, write_text


def body(seed: int, shape: tuple[int, int, int]) -> np.ndarray:
    """int16 [z, y, x], HU: an ellipse of tissue in air, with noise; no two voxels of a neighbourhood alike."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]]
    inside = ((y / shape[1] - 0.5) / 0.4) ** 2 + ((x / shape[2] - 0.5) / 0.45) ** 2 < 1
    return (np.where(inside, 40, -1000) + 3 * z + rng.integers(-30, 30, shape)).astype(np.int16)


def axial(image: nib.Nifti1Image) -> np.ndarray:
    """[z, y, x] or [c, z, y, x], to the head, the back and the left: by nibabel's own turning, then two flips."""
    values = np.asanyarray(nib.as_closest_canonical(image).dataobj)[::-1, ::-1]
    return np.moveaxis(values, (0, 1, 2), (-1, -2, -3))


def write_nifti(path: Path, values: np.ndarray, axes: str = "RAS") -> np.ndarray:
    """``values`` [x, y, z] whose axes run as ``axes`` says; how they look in axial order."""
    codes = nib.orientations.axcodes2ornt(axes)
    affine = nib.orientations.inv_ornt_aff(codes, values.shape[:3]) @ np.diag([0.8, 0.9, 2.5, 1])
    affine[:3, 3] = 7, -20, 31
    image = nib.Nifti1Image(values, affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return axial(image)


def luna16(root: Path) -> Stored:
    """Four scans in three folds, one of them turned by half, with values in axial order.

    Nodules are single bright voxels; one lies on the top slice, one is of a scan that is not there.
    """
    scans = {
        "1.3.6.1": ("subset0", (1, 1), (0.7, 0.75, 1.25)),
        "1.3.6.2": ("subset0", (-1, -1), (0.7, 0.7, 2.5)),
        "1.3.6.3": ("subset5", (1, 1), (0.6, 0.6, 1.0)),
        "1.3.6.4": ("subset9", (1, 1), (0.8, 0.8, 2.0)),
    }
    nodules = {"1.3.6.1": [((20, 24, 30), 9.0), ((39, 10, 12), 8.0)], "1.3.6.2": [((5, 8, 40), 6.5)]}
    lines, made = ["1.3.6.99,1,2,3,5.5"], {}
    for n, (uid, (fold, (right, down), spacing)) in enumerate(scans.items()):
        values = body(n, (40, 48, 56))
        for voxel, _ in nodules.get(uid, ()):
            values[voxel] = 3000
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(spacing)
        image.SetOrigin((-120.5, -90.25, -300.0))
        image.SetDirection((right, 0, 0, 0, down, 0, 0, 0, 1))
        (root / fold).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, root / fold / f"{uid}.mhd")
        for (z, y, x), diameter in nodules.get(uid, ()):
            point = image.TransformIndexToPhysicalPoint((x, y, z))
            lines.append(",".join(map(str, [uid, *point, diameter])))
        made[uid] = np.clip(values[:, ::down, ::right], -1024, 3071), None
    write_text(root / "annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm", *lines)
    shutil.copy(root / "subset5" / "1.3.6.3.mhd", root / "subset9" / "1.3.6.5.mhd")  # its .raw is missing
    shutil.copy(root / "subset5" / "1.3.6.3.mhd", root / "subset9" / "1.3.6.1.mhd")  # again
    return made


def lidc_idri(root: Path) -> dict[str, np.ndarray]:
    """Two CT of one patient (the second lies feet first, its files unsorted) and a radiograph; HU in axial order."""
    made = {}
    for n, uid in enumerate(("1.3.6.101", "1.3.6.102")):
        values = np.maximum(body(n, (9, 40, 44)), -1024)  # 12 bits begin there
        folder = root / "LIDC-IDRI-0001" / f"1.2.{n}" / uid
        for z in range(9):
            # feet first: the first column is on the patient's left, and z runs from the head to the feet in this order
            stored = values[z] if n == 0 else values[8 - z, :, ::-1]
            ingest.dicom(
                folder / f"1-{(7 * z) % 9 + 1:02d}.dcm", (stored + 1024).astype(np.uint16),
                SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT", PatientID="LIDC-IDRI-0001",
                StudyInstanceUID=f"1.2.{n}", SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.{z}",
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0] if n == 0 else [-1, 0, 0, 0, 1, 0],
                ImagePositionPatient=[-15, -14, 2.5 * z] if n == 0 else [15, -14, 20 - 2.5 * z],
                PixelSpacing=[0.7, 0.7], SliceThickness=2.5, RescaleSlope=1, RescaleIntercept=-1024,
                Manufacturer="GE MEDICAL SYSTEMS",
            )  # fmt: skip
        made[uid] = values
    ingest.dicom(
        root / "LIDC-IDRI-0001" / "1.2.5" / "1.3.6.103" / "1-01.dcm", np.zeros((40, 40), np.uint16),
        PatientID="LIDC-IDRI-0001", StudyInstanceUID="1.2.5", SeriesInstanceUID="1.3.6.103",
    )  # fmt: skip
    write_text(root / "LIDC-IDRI-0001" / "1.2.5" / "071.xml", '<IdriReadMessage xmlns="http://www.nih.gov"/>')
    return made


def walk(rows: slice, columns: slice) -> list[tuple[int, int]]:
    """The outline of a rectangle of pixels: the first ones outside, one after the other, as (column, row)."""
    top, bottom, left, right = rows.start - 1, rows.stop, columns.start - 1, columns.stop
    return [
        *((x, top) for x in range(left, right)),
        *((right, y) for y in range(top, bottom)),
        *((x, bottom) for x in range(right, left, -1)),
        *((left, y) for y in range(bottom, top, -1)),
    ]


def readings(path: Path, series: str, readers: list[list[tuple[int | None, list[tuple[str, bool, list]]]]]) -> Path:
    """LIDC's XML: of each reader the nodules, of each nodule its rating and (slice's UID, inclusion, outline)."""
    sessions = ""
    for reader in readers:
        sessions += "<readingSession><annotationVersion>3.12</annotationVersion>"
        for number, (rating, outlines) in enumerate(reader):
            traits = f"<characteristics><subtlety>4</subtlety><malignancy>{rating}</malignancy></characteristics>"
            rois = ""
            for instance, inclusion, outline in outlines:
                edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in outline)
                rois += (
                    f"<roi><imageZposition>-1</imageZposition><imageSOP_UID>{instance}</imageSOP_UID>"
                    f"<inclusion>{str(inclusion).upper()}</inclusion>{edges}</roi>"
                )
            sessions += (
                f"<unblindedReadNodule><noduleID>Nodule {number}</noduleID>{traits if rating else ''}{rois}"
                "</unblindedReadNodule>"
            )
        sessions += (
            "<nonNodule><nonNoduleID>1</nonNoduleID><imageZposition>0</imageZposition>"
            "<locus><xCoord>3</xCoord><yCoord>4</yCoord></locus></nonNodule></readingSession>"
        )
    head = f"<ResponseHeader><Version>1.8.1</Version><SeriesInstanceUid>{series}</SeriesInstanceUid></ResponseHeader>"
    text = '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage uid="1" xmlns="http://www.nih.gov">'
    return write_text(path, f"{text}{head}{sessions}</LidcReadMessage>")


def lits(root: Path) -> Stored:
    """Volumes on both sides of each border between splits, in batches, in two orientations; one without a mask."""
    made: Stored = {}
    for n in (0, 99, 100, 114, 115, 129, 130, 7):
        folder, axes = root / f"Training Batch {1 + n // 100}", ("LAS", "RAS")[n % 2]
        volume = write_nifti(folder / f"volume-{n}.nii", body(n, (40, 36, 33)), axes)
        liver = np.zeros((40, 36, 33), np.uint8)
        liver[8:25, 5:20, 3:30], liver[12:15, 9:12, 10:20] = 1, 2
        mask = None if n == 7 else write_nifti(folder / f"segmentation-{n}.nii", liver, axes)
        if n not in (130, 7):
            made[f"volume-{n}"] = np.clip(volume, -1024, 3071), mask
    volume = write_nifti(root / "LITS-Challenge-Test-Data" / "test-volume-3.nii", body(200, (40, 36, 33)), "LAS")
    made["test-volume-3"] = np.clip(volume, -1024, 3071), None
    write_text(root / "readme.txt", "no volume")
    return made


def brats(root: Path, modalities: tuple[str, ...] = ("flair",)) -> Stored:
    """Patients of 2018, sorted by grade, and of 2020, one of whom has the mask of another name; of ``modalities``."""
    made: Stored = {}
    folders = ["HGG/Brats18_TCIA01_1_1", "LGG/Brats18_2013_0_1", "BraTS20_Training_355", "HGG/Brats18_incomplete"]
    for n, folder in enumerate(folders):
        name, packed = Path(folder).name, ".nii" if "20_" in folder else ".nii.gz"
        read = {}
        for m, modality in enumerate(("flair", "t1", "t1ce", "t2")):
            values = np.abs(body(10 * n + m, (36, 38, 34)))
            read[modality] = write_nifti(root / folder / f"{name}_{modality}{packed}", values, "LPS")
        tumour = np.zeros((36, 38, 34), np.uint8)
        tumour[10:20, 12:22, 9:19], tumour[13:16, 15:18, 12:16], tumour[14, 16, 13] = 2, 4, 1
        mask = "W39_1998.09.19_Segm" if "355" in name else f"{name}_seg"
        if "incomplete" not in name:
            drawn = write_nifti(root / folder / f"{mask}{packed}", tumour, "LPS")
            channels = [read[modality] for modality in modalities]
            made[name] = np.stack(channels) if len(channels) > 1 else channels[0], drawn
    return made


def msd(root: Path, channels: int = 1) -> Stored:
    """Three volumes with masks, one without; hidden copies; a listed file that is missing, one that is not listed."""
    made: Stored = {}
    training = []

    def written(folder: str, n: int) -> np.ndarray:
        several = np.stack([np.abs(body(n + 50 * c, (40, 36, 12))) for c in range(channels)], axis=-1)
        return write_nifti(root / folder / f"prostate_{n:02d}.nii.gz", several if channels > 1 else several[..., 0])

    for n in (1, 4, 17):
        name, image = f"prostate_{n:02d}.nii.gz", written("imagesTr", n)
        mask = write_nifti(root / "labelsTr" / name, (np.arange(12) % 3 * np.ones((40, 36, 1))).astype(np.uint8))
        write_text(root / "imagesTr" / f"._{name}", "AppleDouble")
        made[name[:-7]] = (image, mask)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    training.append({"image": "./imagesTr/prostate_99.nii.gz", "label": "./labelsTr/prostate_99.nii.gz"})
    write_nifti(root / "imagesTr" / "prostate_50.nii.gz", body(50, (40, 36, 12)))
    made["prostate_03"] = (written("imagesTs", 3), None)
    content = {
        "name": "PROSTATE", "modality": {str(c): "MR" for c in range(channels)},
        "labels": {"0": "background", "1": "PZ", "2": "TZ"}, "numTraining": 4, "numTest": 1,
        "training": training, "test": ["./imagesTs/prostate_03.nii.gz"],
    }  # fmt: skip
    write_text(root / "dataset.json", json.dumps(content))
    return made


def channel_files(root: Path) -> Stored:
    """Two files of two channels, one with a mask; one of three, and one of one."""
    made: Stored = {}
    for n, channels in enumerate((2, 2, 3, 1)):
        values = np.stack([np.abs(body(n + 50 * c, (40, 36, 20))) for c in range(channels)], axis=-1)
        read = write_nifti(root / f"{n}.nii.gz", values if channels > 1 else values[..., 0])
        mask = write_nifti(root / "masks" / "0.nii.gz", np.ones((40, 36, 20), np.uint8)) if n == 0 else None
        made |= {f"{n}.nii.gz": (read, mask)} if channels == 2 else {}
    write_text(
        root / "table.csv", "file,mask,sick", "0.nii.gz,masks/0.nii.gz,1", "1.nii.gz,,0", "2.nii.gz,,0", "3.nii.gz,,0"
    )
    return made


def luna16_candidates(root: Path) -> Stored:
    """``luna16`` with two nodules in every scan, each with two candidates (in the last scan only the first), a finding
    that is left out with one, and six candidates elsewhere. Returns nothing."""
    luna16(root)
    lines = {name: ["seriesuid,coordX,coordY,coordZ,diameter_mm"] for name in ("annotations", "annotations_excluded")}
    lines["candidates_V2"] = ["seriesuid,coordX,coordY,coordZ,class"]
    for path in sorted(path for path in root.glob("*/*.mhd") if path.with_suffix(".raw").exists()):
        elsewhere = np.random.default_rng(0).integers(0, (16, 16, 40), (6, 3)).tolist()
        hits = [(20, 20, 20), (21, 20, 20), *[(40, 30, 20), (41, 30, 20)] * (path.stem != "1.3.6.4")]
        voxels = {
            "annotations": [((20, 20, 20), 7.0), ((40, 30, 20), 7.0)],
            "annotations_excluded": [((20, 40, 20), -1.0)],
            "candidates_V2": [*((hit, 1) for hit in hits), *((other, 0) for other in [(20, 40, 20), *elsewhere])],
        }
        image = sitk.ReadImage(path)
        for name, listed in voxels.items():
            for voxel, last in listed:
                point = image.TransformIndexToPhysicalPoint(voxel)
                lines[name].append(",".join(map(str, [path.stem, *point, last])))
    for name, content in lines.items():
        write_text(root / f"{name}.csv", *content)
    return {}


def pe_cad(root: Path) -> Stored:
    """Blocks of five scans in three splits, each with two emboli, of which one has two candidates, and four candidates
    elsewhere."""
    lines, made = ["file,patient,scan,split,x,y,z,embolism,lesion,lesions"], {}
    (root / "blocks").mkdir(parents=True)
    for scan, split in enumerate(("train", "train", "val", "test", "test")):
        for n in range(6):
            name, values = f"{scan}_{n}.npy", body(10 * scan + n, (16, 16, 16))
            values[4:12, 4:12, 4:12] += 300 * (n < 2)
            np.save(root / "blocks" / name, values)
            lines.append(f"blocks/{name},p{min(scan, 3)},s{scan},{split},1,2,{n},{int(n < 2)},{'1' * (n < 2)},2")
            made[name] = values, None
    write_text(root / "candidates.csv", *lines)
    return made


def sessions(root: Path) -> Stored:
    """Sequences in files of their own beside a mask: two whole sessions in one folder, and one that lacks FLAIR."""
    made: Stored = {}
    for n, (folder, stem) in enumerate((("ward", "a"), ("ward", "b"), ("", "c"))):
        t1, flair = np.abs(body(3 * n, (36, 38, 34))), 7 * np.abs(body(3 * n + 1, (36, 38, 34)))
        start = root / folder / stem
        read = write_nifti(start.with_name(f"{stem}_t1.nii.gz"), t1, "LPS")
        other = np.zeros_like(read)
        if stem != "c":
            other = write_nifti(start.with_name(f"{stem}_flair.nii"), flair, "LPS")
        mask = write_nifti(start.with_name(f"{stem}_seg.nii.gz"), (t1 > 500).astype(np.uint8), "LPS")
        made[f"{folder}/{stem}".lstrip("/")] = np.stack([read, other]), mask
    write_text(root / "ward" / "notes.txt", "of no pattern")
    write_text(
        root / "table.csv", "file,patient,sick", "ward/a_t1.nii.gz,p,1", "ward/b_flair.nii,p,0", "c_t1.nii.gz,q,"
    )
    return made


def bids(root: Path) -> Stored:
    """Two subjects of one session each, one of two; FLAIR in one; a derivative and a perfusion series beside them."""
    made: Stored = {}
    for n, folder in enumerate(("sub-01", "sub-02/ses-a", "sub-02/ses-b")):
        start = f"{root}/{folder}/anat/{folder.replace('/', '_')}"
        t1 = write_nifti(Path(f"{start}_acq-iso_T1w.nii.gz"), np.abs(body(n, (24, 26, 20))))
        flair = np.zeros_like(t1)
        if n == 1:
            flair = write_nifti(Path(f"{start}_FLAIR.nii.gz"), np.abs(body(n + 9, (24, 26, 20))))
        made[folder] = np.stack([t1, flair]), None
        write_nifti(
            Path(f"{root}/derivatives/x/{folder}/anat/{folder.replace('/', '_')}_T1w.nii.gz"), body(n, (9, 9, 9))
        )
    write_nifti(root / "sub-01" / "perf" / "sub-01_asl.nii.gz", body(5, (24, 26, 20)))
    write_text(root / "participants.tsv", "participant_id\tage\tsex\tgroup", "sub-01\t61.5\tF\tpatient",
               "sub-02\tn/a\tM\tn/a")  # fmt: skip
    return made
