"""CheXpert, small and whole."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ingest.sources import miniatures
from PIL import Image

from dira_scale.errors import UserError
from dira_scale.ingest.sources.chexpert import CheXpert


@pytest.mark.parametrize("form", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_the_layout_arrives(tmp_path: Path, shards: Callable, form: str) -> None:
    made = miniatures.chexpert(tmp_path / form, form)
    dataset = shards("chexpert", images=tmp_path / form, codec="png")
    frontal, odd, lateral, valid, unlisted = made
    assert len(dataset) == 4 and len(dataset.label_names) == 14
    told = {k: v for k, v in dataset.labels(frontal).items() if not math.isnan(v)}
    assert told == {"No Finding": 1, "Pneumothorax": 0, "Support Devices": 1}
    told = {k: v for k, v in dataset.labels(odd).items() if not math.isnan(v)}
    assert told == {
        "Cardiomegaly": -1, "Lung Opacity": 1, "Edema": -1, "Consolidation": -1, "Atelectasis": -1,
        "Pleural Effusion": -1, "Fracture": 1,
    }  # fmt: skip
    assert all(map(math.isnan, dataset.labels(lateral).values()))
    assert sum(dataset.labels(valid).values()) == 3 and dataset.row(valid)["split"] == "test"
    assert dataset.attributes(frontal) == {"age": "68", "sex": "F", "view": "AP"}
    assert dataset.attributes(odd) == {"sex": "M", "view": "LL"} and dataset.attributes(valid)["age"] == "73"
    assert dataset.attributes(lateral) == {"age": "90", "view": "LATERAL"}
    one, other = dataset.row(odd), dataset.row(lateral)
    assert one["patient"] == other["patient"] and one["study"] != other["study"] and one["split"] == other["split"]
    gone = "train/patient00009/study1/view1_frontal.jpg"
    assert dataset.rejected(unlisted, gone) == {
        unlisted: "no line in the tables",
        gone: "the file cannot be read (FileNotFoundError)",
    }
    for name in (frontal, odd, lateral, valid):
        file = io.BytesIO()
        Image.fromarray(made[name]).save(file, "JPEG", quality=95)
        np.testing.assert_array_equal(dataset.pixels(name), np.asarray(Image.open(file)))


@pytest.mark.parametrize(
    "file, old, new, words",
    [
        ("valid.csv", "", None, "holds no valid.csv"),
        ("train.csv", "AP/PA", "View", "train.csv: no column 'AP/PA'"),
        ("train.csv", ",68,Frontal,AP,1.0", ",68,Frontal,AP,2.0", "line 2: No Finding: expected 1, 0 or -1, got 2"),
        ("train.csv", ",68,Frontal,AP,1.0", ",68,Frontal,AP,yes", "line 2: 'yes' is not a number"),
        ("train.csv", "patient00001/", "", "line 2: expected CheXpert-v1.0…/train/patientN/studyN/FILE, got '"),
        ("train.csv", "train/patient00001", "../patient00001", "expected CheXpert-v1.0"),
        ("train.csv", "patient00009", "patient00001", "line 5: a second line for train/patient00001/study1/view1"),
    ],
)
def test_tables_that_are_wrong_are_named(tmp_path: Path, file: str, old: str, new: str | None, words: str) -> None:
    miniatures.chexpert(tmp_path)
    text = (tmp_path / file).read_text()
    (tmp_path / file).unlink() if new is None else (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=words):
        list(CheXpert(str(tmp_path)).records(1))
