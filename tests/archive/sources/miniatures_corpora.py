"""Large published corpora, made small, as ``miniatures``."""

import gzip
import json
from pathlib import Path

import numpy as np
from archive import ingest
from archive.sources.miniatures import CHEXPERT, Stored, picture, write_png, write_text
from archive.sources.miniatures_3d import body, write_nifti
from PIL import Image

SHAPE = (20, 18, 17)
FINDINGS = sorted(CHEXPERT.split(",")[5:])  # MIMIC's tables have them by letter


def packed(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))


def mimic_cxr(root: Path, form: str = "jpg") -> Stored:
    """Two images of one study with a report, one of a study without labels, one missing, one without a line."""
    tables = root if form == "jpg" else root / "tables"
    images = {"a-1": ("10000032", "50414267"), "a-2": ("10000032", "50414267"), "b-1": ("11000011", "51000001"),
              "c-1": ("19999987", "59999999"), "none": ("19999987", "59999999")}  # fmt: skip
    splits = {"a-1": "train", "a-2": "train", "b-1": "validate", "c-1": "test", "gone": "test"}
    rows = {image: images.get(image, ("19999987", "59999999")) for image in splits}
    packed(tables / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split",
           *(f"{image},{study},{patient},{splits[image]}" for image, (patient, study) in rows.items()))  # fmt: skip
    packed(tables / "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id,subject_id,study_id,ViewPosition",
           *(f"{image},{patient},{study},{'' if image == 'b-1' else 'PA'}"
             for image, (patient, study) in rows.items()))  # fmt: skip
    cells = {"Edema": "-1.0", "Fracture": "0.0", "Pneumonia": "1.0"}
    packed(tables / "mimic-cxr-2.0.0-chexpert.csv.gz", ",".join(["subject_id", "study_id", *FINDINGS]),
           ",".join(["10000032", "50414267", *(cells.get(finding, "") for finding in FINDINGS)]),
           ",".join(["19999987", "59999999", *("0.0" for _ in FINDINGS)]))  # fmt: skip
    made: Stored = {}
    for n, (image, (patient, study)) in enumerate(images.items()):
        path = root / "files" / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{image}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "jpg":
            Image.fromarray(picture(n, 39, 36)).save(path, quality=95)
            made[image] = np.asarray(Image.open(path)), None
        else:
            made[image] = drawn(path, n, PatientID="anonymous"), None
    return dict(list(made.items())[:4])


def drawn(path: Path, seed: int, **tags: str) -> np.ndarray:
    """A radiograph of 12 bits as DICOM; how it is stored in 8."""
    pixels = picture(seed, 40, 36).astype(np.uint16) * 16
    ingest.dicom(path, pixels, **tags)
    return np.asarray(np.rint(255 * ((pixels.astype(float) - pixels.min()) / np.ptp(pixels))))


def padchest(root: Path) -> Stored:
    """Five images in two folders, of 16 bits: labels in lists, odd blanks, an empty list, none at all."""
    head = "row,ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels"
    lists = ["\"['pleural effusion', ' cardiomegaly ']\"", "['normal']", "[]", "\"['unchanged', 'exclude']\"",
             "\"['cardiomegaly', 'scoliosis']\""]  # fmt: skip
    packed(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", head,
           *(f"{n},{n}.png,0,20110305,S{n // 2},P{n // 2},{'1950.0' if n else ''},F,{'L' if n else 'PA'},{listed}"
             for n, listed in enumerate(lists)), "9,9.png,0,20110305,S9,P9,1950,M,PA,['normal']")  # fmt: skip
    made: Stored = {}
    for n in range(5):
        wide = picture(n, 40, 36).astype(np.uint16) * 257
        path = root / str(n // 3) / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(wide).save(path)
        made[str(n)] = np.rint(255 * ((wide.astype(float) - wide.min()) / np.ptp(wide))), None
    write_png(root / "0" / "unlisted.png", picture(8))
    return made


def vindr_cxr(root: Path) -> Stored:
    """Two images of three readers who disagree, one of the test part."""
    notes = root / "annotations"
    write_text(notes / "image_labels_train.csv", "image_id,rad_id,Cardiomegaly,Nodule/Mass,Other diseases",
               "a,R1,1,1,0", "b,R1,0,0,0", "a,R2,1,0,1", "a,R3,0,0,1", "b,R2,0,0,0", "b,R3,0,0,0",
               "gone,R1,0,0,0")  # fmt: skip
    write_text(notes / "image_labels_test.csv", "image_id,Cardiomegaly,Nodule/Mass,Other disease", "t,0,1,1")
    head = "image_id,{}class_name,x_min,y_min,x_max,y_max"
    write_text(notes / "annotations_train.csv", head.format("rad_id,"), "a,R1,Cardiomegaly,5,10.5,15,30",
               "a,R2,Cardiomegaly,6,10,15,30", "a,R1,Nodule/Mass,1,1,4,4", "b,R1,No finding,,,,")  # fmt: skip
    write_text(notes / "annotations_test.csv", head.format(""), "t,Nodule/Mass,2,3,12,9")
    paths = {"a": "train/a.dicom", "b": "train/b.dicom", "t": "test/t.dicom", "other": "test/other.dicom"}
    tags = {"PatientID": "", "PatientSex": "M", "PatientAge": "044Y"}
    made: Stored = {name: (drawn(root / path, n, **tags), None) for n, (name, path) in enumerate(paths.items())}
    return dict(list(made.items())[:3])


def rsna_pneumonia(root: Path) -> Stored:
    """Two images of one patient, with boxes and without; a normal one; one of the test part."""
    write_text(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", "a,5.0,6.0,10.0,12.0,1",
               "a,20,8,9,20,1", "b,,,,,0", "c,,,,,0")  # fmt: skip
    classes = {"a": "Lung Opacity", "b": "No Lung Opacity / Not Normal", "c": "Normal"}
    write_text(root / "stage_2_detailed_class_info.csv", "patientId,class", "a,Lung Opacity",
               *(f"{image},{found}" for image, found in classes.items()))  # fmt: skip
    entries = [{"img_id": f"{name}.png", "subset_img_id": image, "bbox": None}
               for image, name in {"a": "00000013_005", "b": "00000013_011", "c": "00000020_000"}.items()]  # fmt: skip
    (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(entries))
    made: Stored = {}
    for n, image in enumerate("abcd"):
        folder = "stage_2_test_images" if image == "d" else "stage_2_train_images"
        tags = {"PatientID": image, "PatientSex": "F", "PatientAge": "051Y", "ViewPosition": "AP"}
        made[image] = drawn(root / folder / f"{image}.dcm", n, **tags), None
    return made


def ct_rate(root: Path) -> Stored:
    """Two reconstructions of a scan, one of valid, one of a head; a copy of the first release beside them."""
    names = {"train": ["train_1_a_1", "train_1_a_2", "train_2_b_1"], "valid": ["valid_7_a_1"]}
    made: Stored = {}
    for split, volumes in names.items():
        write_text(root / "multi_abnormality_labels" / f"{split}_predicted_labels.csv",
                   "VolumeName,Medical material,Lung nodule",
                   *(f"{name}.nii.gz,{n},{1 - n % 2}" for n, name in enumerate(volumes)),
                   f"{split}_9_a_1.nii.gz,0,0")  # fmt: skip
        heads = ["train_2_b_1.nii.gz"] if split == "train" else []
        write_text(root / "metadata" / f"no_chest_{split}.txt", *heads)
        for n, name in enumerate(volumes):
            _, patient, scan, _ = name.split("_")
            path = root / f"{split}_fixed" / f"{split}_{patient}" / f"{split}_{patient}_{scan}" / f"{name}.nii.gz"
            made[name] = np.clip(write_nifti(path, body(n + len(split), SHAPE), "LPS"), -1024, 3071), None
    write_nifti(root / "train" / "train_1" / "train_1_a" / "train_1_a_1.nii.gz", body(9, SHAPE))
    del made["train_2_b_1"]
    return made


def blocks(path: Path, *values: int, axes: str = "RAS") -> np.ndarray:
    """A mask with a block of each value."""
    mask = np.zeros(SHAPE, np.uint8)
    for n, value in enumerate(values):
        mask[2 + 5 * n : 6 + 5 * n, 3:9, 4:12] = value
    return write_nifti(path, mask, axes)


def totalsegmentator(root: Path) -> Stored:
    """Three subjects with two structures, which overlap in one; one without a mask; one of no line."""
    write_text(root / "meta.csv", "\ufeffimage_id;age;gender;institute;study_type;split",
               "s0001;62;m;A;ct thorax;train", "s0002;;f;B;ct head;val", "s0003;91;f;B;ct head;test",
               "s0004;50;m;A;ct neck;train")  # fmt: skip
    made: Stored = {}
    for n in (1, 2, 3, 4, 9):
        folder = root / f"s000{n}"
        volume = write_nifti(folder / "ct.nii.gz", body(n, SHAPE), "LAS")
        spleen = blocks(folder / "segmentations" / "spleen.nii.gz", 1, 1 if n == 2 else 0, axes="LAS") > 0
        if n != 4:
            liver = blocks(folder / "segmentations" / "liver.nii.gz", 0, 1, axes="LAS") > 0
            blocks(folder / "segmentations" / "brain.nii.gz", 1)  # not asked for
            made[f"s000{n}"] = np.clip(volume, -1024, 3071), np.where(liver, 2, spleen).astype(np.uint8)
    return dict(list(made.items())[:3])


def acdc(root: Path) -> Stored:
    """Two patients with both phases and the whole series, one of them without a mask."""
    made: Stored = {}
    for split, patient, group, phases in (("training", "patient001", "DCM", (1, 12)),
                                          ("testing", "patient101", "NOR", (2, 9))):  # fmt: skip
        folder = root / split / patient
        write_text(folder / "Info.cfg", f"ED: {phases[0]}", f"ES: {phases[1]}", f"Group: {group}", "Height: 184.0",
                   "NbFrame: 30", "Weight: 95.0")  # fmt: skip
        write_nifti(folder / f"{patient}_4d.nii.gz", np.zeros((*SHAPE[:2], 6, 30), np.int16))
        for phase, frame in zip(("ED", "ES"), phases, strict=True):
            stem = folder / f"{patient}_frame{frame:02d}"
            values = np.abs(body(frame, (*SHAPE[:2], 6)))
            mask = None
            if (split, phase) != ("testing", "ES"):
                drawn = (values > 500).astype(np.uint8) * 3
                mask = write_nifti(Path(f"{stem}_gt.nii.gz"), drawn)
            made[f"{patient}_{phase}"] = write_nifti(Path(f"{stem}.nii.gz"), values), mask
    return made


def pairs(root: Path, images: str, masks: str, names: tuple[str, ...]) -> Stored:
    """A CT for each of ``names`` where ``images`` says, and a mask where ``masks`` does, but for the last."""
    made: Stored = {}
    for n, name in enumerate(names):
        volume = np.clip(write_nifti(root / images.format(name), body(n, SHAPE), "LPS"), -1024, 3071)
        mask = blocks(root / masks.format(name), 1, 2, axes="LPS") if n < len(names) - 1 else None
        made[name] = volume, mask
    return made


def openmind(root: Path) -> Stored:
    """Two datasets with a subject of the same number, one of two sessions; masks beside them."""
    paths = (
        "ds1/sub-01/ses-a/anat/sub-01_ses-a_T1w",
        "ds1/sub-01/ses-b/anat/sub-01_ses-b_T2w",
        "ds2/sub-01/anat/sub-01_T1w",
    )
    lines, made = ["unique_id,image_path,anat_mask_path,modality,age,sex,image_quality_score"], {}
    for n, path in enumerate(paths):
        made[f"{path}.nii.gz"] = write_nifti(root / "OpenMind" / f"{path}.nii.gz", np.abs(body(n, SHAPE))), None
        blocks(root / "OpenMind" / f"{path}__Data" / "deface_mask.nii.gz", 1)
        lines.append(f"{n},{path}.nii.gz,,{path[-3:]},{'41.5' if n else ''},{'F' if n else ''},2.1")
    write_text(root / "openneuro_metadata.csv", *lines)
    return made


def fomo(root: Path, paths: tuple[str, ...]) -> Stored:
    return {path: (write_nifti(root / path, np.abs(body(n, SHAPE))), None) for n, path in enumerate(paths)}
