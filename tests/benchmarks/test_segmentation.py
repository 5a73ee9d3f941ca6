"""bench segmentation: its scorer by hand and by another library, what nnU-Net is given, its table."""

import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from train.data.volumes import make, random_volumes

from benchmarks.segmentation.__main__ import table
from benchmarks.segmentation.score import dice, findings, score
from benchmarks.segmentation.sides import Bench, NnUNet, Ours
from dira_scale.base.errors import UserError

TASK = ["task=masks", "preset=volumes_small", "init=random"]
FAKE = """#!{python}
import json, os, pathlib, shutil, sys
program, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
raw, done, results = (pathlib.Path(os.environ[f"nnUNet_{{name}}"]) for name in ("raw", "preprocessed", "results"))
if program.endswith("preprocess"):
    (done / "Dataset001_Bench" / "nnUNetPlans_3d_fullres").mkdir(parents=True)
elif program.endswith("train"):
    epochs, validations = map(int, os.environ["BUDGET"].split())
    about = {{"seconds": [2.0 * validations] * epochs, "dice": [0.4] + [0.6] * (epochs - 1), "patch": [8] * 3}}
    (results / "a" / "b" / "fold_0").mkdir(parents=True)
    text = json.dumps(about | {{"iterations": 5 * validations, "batch": 2}})
    (results / "a" / "b" / "fold_0" / "epochs.json").write_text(text)
else:
    out = pathlib.Path(words[words.index("-o") + 1])
    out.mkdir()
    for image in pathlib.Path(words[words.index("-i") + 1]).iterdir():
        shutil.copy(image, out / image.name.replace("_0000", ""))
"""


def test_dice_and_findings_by_hand() -> None:
    """Voxels that touch at a corner are one finding; a prediction that bridges two has found both."""
    truth, answer = np.zeros((2, 1, 4, 9), bool)
    truth[0, 0, 0] = truth[0, 1, 1] = True
    truth[0, 0, 4] = truth[0, 0, 6] = truth[0, 3, 8] = True
    assert findings(answer, truth) == (4, 0, 0)
    answer[0, 1, 1] = True
    answer[0, 0, 4:7] = True
    answer[0, 3, 0] = answer[0, 3, 2] = True
    assert findings(answer, truth) == (4, 3, 2)
    assert findings(truth, truth) == (4, 4, 0) and findings(answer, np.zeros_like(answer)) == (0, 0, 4)
    assert dice(answer, truth) == 2 * 3 / (5 + 6)
    masks = (1 * answer, 1 * truth), (1 * answer, 0 * truth)
    expected = {"Dice, a": 6 / 11, "a found": 3 / 4, "a, false a scan": 3.0, "Dice, b": None}
    assert score(masks, {"a": 1, "b": 2}, ["a"]) == pytest.approx(expected)


def test_findings_are_those_of_skimage() -> None:
    """Random masks, by another library, finding by finding."""
    from skimage.measure import label

    truth, answer = np.random.default_rng(0).random((2, 12, 13, 14)) < 0.04
    parts, answers = label(truth, connectivity=3), label(answer, connectivity=3)
    found = sum(bool(answer[parts == part].any()) for part in range(1, parts.max() + 1))
    false = sum(not truth[answers == part].any() for part in range(1, answers.max() + 1))
    assert findings(answer, truth) == (parts.max(), found, false) and 0 < found < parts.max()


def test_nnunet_has_our_voxels_and_patients_and_epochs_that_end_in_time(tmp_path: Path) -> None:
    """By programs in its place: of one iteration of validation and five of training, which take 2 s together."""
    for name in ("plan_and_preprocess", "train", "predict"):
        program = tmp_path / f"nnUNetv2_{name}"
        program.write_text(FAKE.format(python=sys.executable))
        program.chmod(0o755)
    volumes = random_volumes(10)
    dataset = make(tmp_path / "toy", volumes, "b2nd", val=2, test=2)
    bench = Bench(tmp_path / "toy", [*TASK, "task.classes={above: 1}"], 10, "cpu")
    side = NnUNet(bench, tmp_path / "python", tmp_path / "data")
    found = side.train(tmp_path / "sitting", 0)
    assert found == {"seconds": 600.0, "first": 24.0, "steps": 1500, "patch": [8, 8, 8], "batch": 2}
    raw, done = (tmp_path / "data" / name / "Dataset001_Bench" for name in ("raw", "preprocessed"))
    (fold,) = json.loads((done / "splits_final.json").read_text())
    assert fold == {"train": ["v0", "v2", "v4"], "val": ["v6"]}  # every second has a mask
    assert json.loads((raw / "dataset.json").read_text())["labels"] == {"background": 0, "above": 1}
    for number in (0, 2, 4, 6):
        image, mask = (
            nibabel.load(raw / name) for name in (f"imagesTr/v{number}_0000.nii.gz", f"labelsTr/v{number}.nii.gz")
        )
        assert np.array_equal(np.asarray(image.dataobj).T, volumes[number])
        assert np.array_equal(np.asarray(mask.dataobj).T, volumes[number] > 0)
        assert image.header.get_zooms() == mask.header.get_zooms() == (1.0, 1.0, 2.0)
    assert {file.name for file in (raw / "imagesTs").iterdir()} == {"v8_0000.nii.gz"}
    ((predicted, true),) = bench.cases(side.predict(tmp_path / "sitting"))
    assert np.array_equal(predicted, volumes[8]) and np.array_equal(true, volumes[8] > 0)
    assert dataset.hash == bench.dataset.hash


def test_classes_that_nnunet_is_not_given_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "toy", random_volumes(2), "b2nd")
    for classes in ("task.classes=null", "task.classes={a: 2}", "task.classes={a: [1, 2], b: [2]}"):
        with pytest.raises(UserError, match="must be names of the values 1, 2"):
            _ = Bench(tmp_path / "toy", [*TASK, classes], 1, "cpu").classes


def test_the_table_has_means_and_what_was_never_reached() -> None:
    about = {"batch": 2, "patch": [8, 8, 8], "on": "x"}
    rows = [
        {
            "side": side,
            "seconds": 60.0 * number,
            "steps": number,
            "first": first,
            "scores": {"Dice, a": figure},
            **about,
        }
        for side, number, first, figure in (("A", 1, 30.0, 0.5), ("A", 3, None, 0.7), ("B", 2, None, None))
    ]
    lines = table(rows).splitlines()
    assert lines[2:4] == [
        "| A | 2 | 2 (1-3) | 2 (1-3) | 0.5, 1 of 2 | 0.6 (0.5-0.7) |",
        "| B | 1 | 2 | 2 | none | none |",
    ]
    assert lines[-1] == "A: batches of 2 x [8, 8, 8]; B: batches of 2 x [8, 8, 8]; x"
    assert Ours(Bench(Path(), [], 1, "cpu"), ["views.foreground=0"]).name == "ours views.foreground=0"


def test_ours_has_as_many_epochs_as_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a command in its place, which logs every second step. A step takes 0.5 s and a validation 2 s, so that 60 s
    have five of these, a sixth of the time, each after 20 steps: 4 epochs of 5 steps, of 10 volumes in twos."""

    def run(self: Bench, log: Path, *command: object) -> None:
        words = dict(str(word).split("=", 1) for word in command if "=" in str(word))
        steps, every = round(5 * 200 * float(words["epoch_factor"])), 5 * int(words["validate.every"])
        rows, due = list[dict[str, Any]](), 0.0
        for step in range(1, steps + 1):
            if step % every == 0:
                rows.append({"step": step, "split": "val", "dice": 0.9, "volume_dice": step / 80})
                due = 2.0
            if step % 2 == 0 or step == steps:
                took = {"time/step": 0.4 * (2 - step % 2), "time/data": 0.1 * (2 - step % 2), "time/checkpoint": 9.0}
                rows.append({"step": step, "split": "train", "time/validate": due, **took})
                due = 0.0
        Path(words["run"]).mkdir(parents=True)
        Path(words["run"], "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))

    monkeypatch.setattr(Bench, "run", run)
    make(tmp_path / "toy", random_volumes(20), "b2nd")
    side = Ours(Bench(tmp_path / "toy", [*TASK, "task.classes={above: 1}"], 1, "cpu"), ["data.batch=2"])
    found = side.train(tmp_path / "sitting", 0)
    assert found.pop("patch") == [16, 32, 32]
    assert found == pytest.approx({"seconds": 60.0, "first": 36.0, "steps": 100, "batch": 2})
