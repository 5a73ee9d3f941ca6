"""The study for a GPU, from made-up sets: its shards, its runs, a second call, its table and its arithmetic by hand."""

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from forked import Forked

from benchmarks.gpu import study, study_commands, study_table
from benchmarks.gpu.report import Job, Report
from benchmarks.synthetic import blueprint
from dira_scale.base.config.compose import compose

FINDINGS = "Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax Consolidation Edema "
FINDINGS += "Emphysema Fibrosis Pleural_Thickening Hernia"


def listed(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A list of images, and the images: noise with a square, whose mask stands beside it where it is asked for."""
    rng = np.random.default_rng(0)
    for row in rows:
        image, mask = rng.integers(0, 120, (40, 40), np.uint8), np.zeros((40, 40), np.uint8)
        mask[10:30, 10:30], image[10:30, 10:30] = 255, 200
        for key, pixels in (("image", image), ("mask", mask)):
            if key in row:
                file = path.parent / ("" if "mask" in row else "images") / row[key]
                file.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(file), pixels)
    with path.open("w", newline="") as file_of_rows:
        writer = csv.DictWriter(file_of_rows, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def sets(data: Path) -> Path:
    """What ``study.shard`` reads, in miniature."""
    splits = ["train"] * 60 + ["val"] * 12 + ["test"] * 12
    kinds = [("NORMAL", ""), ("PNEUMONIA", "bacteria"), ("PNEUMONIA", "virus")]
    children = [
        {"image": f"{i}.png", "label": kinds[i % 3][0], "subtype": kinds[i % 3][1], "patient_group": i, "split": split}
        for i, split in enumerate(splits)
    ]
    lungs = [{"image": f"images/{i}.png", "mask": f"masks/{i}.png", "tuberculosis": i % 2} for i in range(60)]
    adults = [
        {"image": f"{i:08}_000.png", "patient_id": i, "official_split": "test" if i > 30 else "train_val", "view": "PA",
         "age": 50, "sex": "F"} | dict.fromkeys(FINDINGS.split(), i % 2) for i in range(40)
    ]  # fmt: skip
    for (folder, name), rows in zip(study.SETS.values(), (children, lungs, adults), strict=True):
        listed(data / folder / name, rows)
    return data


@pytest.mark.system
def test_a_rehearsal_from_shards_to_the_table_and_a_second_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its processes forked, and one frozen part of two: most of the time that they would take."""
    started = list[str]()

    def start(words: Sequence[str], log: Path) -> Forked:
        started.append(log.stem)
        command = [sys.executable, "-m", f"dira_scale.{words[0]}", *words[1:]]
        return Forked(command, os.environ | {"OMP_NUM_THREADS": "1"})

    def shard(command: list[str]) -> SimpleNamespace:
        return SimpleNamespace(returncode=Forked(command, dict(os.environ)).wait(240))

    root = tmp_path / "study"
    monkeypatch.setenv("DIRA_SCALE_STUDY", str(root))
    monkeypatch.setattr(study, "start", start)
    monkeypatch.delitem(study_commands.FROZEN, "encoder")
    job = Job(Report(tmp_path), 500.0, True, tmp_path, "study")
    left_out = study.study(job)["left_out"]
    assert str(root) in left_out and "benchmarks.gpu.study DATA" in left_out and not started
    with monkeypatch.context() as patched:
        patched.setattr(study_commands, "subprocess", SimpleNamespace(run=shard))
        assert study.shard(tmp_path / "nothing", root) == 2
        assert study.shard(sets(tmp_path / "data"), root) == 0
    assert study.run(job), job.report.read()
    steps = {name: json.loads((root / f"rehearsed/{name}/status.json").read_text()) for name in ("moco-0", "dira-0")}
    assert all((each["state"], each["step"]) == ("done", 3) for each in steps.values())
    assert steps["dira-0"]["stage"] == "dira" and len(started) == 2 + 2 + 2 + 3
    lines = (tmp_path / "study.md").read_text().splitlines()[4:]
    rows = [what for what in study_table.PROBED for _ in study_table.SHARES] + ["lungs"] * 2
    assert [line.split(",")[0].strip("| ") for line in lines] == rows
    full = [line for line in lines if "|  |  |" not in line]
    assert len(full) >= 4
    for line in full:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        pixels, random, moco, dira, *differences = cells[1:]
        assert (pixels == "") == ("lungs" in line) and min(map(float, (random, moco, dira))) >= 0
        expected = [float(moco) - float(random), float(dira) - float(random), float(dira) - float(moco)]
        assert [float(each) for each in differences] == pytest.approx(expected, abs=0.11)
    again = len(started)
    (tmp_path / "gpu.json").unlink()
    assert study.run(job) and len(started) == again  # all has ended, and is in the table again
    assert (tmp_path / "study.md").read_text().splitlines()[4:] == lines


def test_a_command_that_fails_is_named_and_one_that_takes_too_long_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started, ends = dict[str, Any](), list[int]()

    def start(words: Sequence[str], log: Path) -> Any:
        started[log.stem] = subprocess.Popen([sys.executable, "-c", *words])
        return started[log.stem]

    monkeypatch.setattr(study, "start", start)
    codes = {"long": "import time; time.sleep(600)", "broken": "raise SystemExit(3)", "cut": "raise SystemExit(75)"}
    commands = {name: [code] for name, code in codes.items()}
    job, enough = Job(Report(tmp_path), 500.0, True, tmp_path, "study"), time.perf_counter() + 240

    def each() -> None:
        ends.append(1)
        if len(ends) == 2:
            monkeypatch.setattr(study, "time", SimpleNamespace(perf_counter=lambda: enough))

    assert study.together(commands, job, enough, each) == ["broken"]
    assert started["study-long"].wait(60) < 0 and len(ends) == 2


def test_epochs_fit_the_time_and_another_call_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a clock of its own: 6 epochs took 30 s, of which the slowest trained 24; 390 s are left of 420."""
    clock = [0.0]
    images, commands = SimpleNamespace(rows=lambda _: range(1000)), study.Commands(tmp_path, False)
    monkeypatch.setattr("dira_scale.dataset.manifest.ShardedDataset", SimpleNamespace(open=lambda _: images))
    monkeypatch.setattr(study, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(study, "ended", lambda _: True)
    monkeypatch.setattr(study, "seconds_an_image", lambda run: (0.001 if "moco" in run.name else 0.004) / 3)
    monkeypatch.setattr(study, "together", lambda *_: clock.__setitem__(0, 30.0))
    job = Job(Report(tmp_path), 540.0, False, tmp_path, "study")
    commands.runs.mkdir()
    choice = study.choose(commands, job, 420.0)
    assert choice["epochs"] == int(0.9 * (390 - 6) / 4) and choice["other seconds"] == pytest.approx(6)
    assert study.choose(commands, job, 10.0) == choice


def test_seconds_of_an_image_are_the_stages_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row of each is slow; 10, 10 and 4 of 24 epochs at 100, 50 and 25 images/s."""
    rows = [
        {"split": split, "stage": stage, "rate": rate / slow}
        for stage, rate in (("di", 100), ("dir", 50), ("dira", 25))
        for slow in (10, 1, 1)
        for split in ("train", "val")
    ]
    reader = SimpleNamespace(rows=lambda: rows, description=SimpleNamespace(rate="rate"))
    monkeypatch.setattr("dira_scale.train.runs.reader.RunReader", lambda _: reader)
    assert study.seconds_an_image(Path("dira-1")) == pytest.approx((10 / 100 + 10 / 50 + 4 / 25) / 24)


def test_the_table_by_hand() -> None:
    """Welch's interval from its formula; t's quantile at 2 degrees of freedom has a closed form."""
    found = {"tuberculosis, 1 %": {"random": [68.0, 70.0, 69.0], "moco": [75.0], "dira": [72.0, 74.0]},
             "lungs": {"random": [50.0, 50.0], "dira": [80.0, 80.0]}}  # fmt: skip
    first, second = study_table.table(found).splitlines()[-2:]
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:5] == ["tuberculosis, 1 %", "", "69.0 ± 1.0 (n 3)", "75.0", "73.0 ± 1.4 (n 2)"]
    assert cells[5] == "+6.0" and cells[7] == "-2.0"  # one run of MoCo-v2
    a, b = 1 / 3, 2 / 2  # variances of the means
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    low, high = (float(each) for each in cells[6].split("[")[1].strip("]").split(","))
    assert (low + high) / 2 == pytest.approx(4.0, abs=0.05)
    at_one, at_two = (math.sqrt(a + b) * each for each in (math.tan(0.475 * math.pi), 0.95 * math.sqrt(2 / 0.0975)))
    assert 1 < freedom < 2 and at_two < (high - low) / 2 < at_one
    cells = [cell.strip() for cell in second.split("|")]
    assert cells[3:8] == ["50.0 ± 0.0 (n 2)", "", "80.0 ± 0.0 (n 2)", "", "+30.0"]


@pytest.mark.system
def test_every_command_is_one_that_is_taken_at_full_size(tmp_path: Path) -> None:
    """What is refused would fail on the GPU first."""
    commands = study.Commands(tmp_path, False)
    trained = commands.pretraining(200, commands.runs)
    assert set(trained) == {"moco-0", "moco-1", "dira-0", "dira-1"}
    after = commands.judging(list(trained))
    assert len(after) == 2 * (4 + study_commands.RANDOM) + 2
    for name in ("moco-0", "dira-0", "lungs-decoder-random-0", "lungs-encoder-random-1"):
        command, *words = (trained | after)[name]
        made = blueprint(command, *[word for word in words if not word.startswith("data.shards")])
        made.check(1)
        assert made.config.data.size == 128 and made.config.parallel.threads == 1
    for name in ("probe-shenzhen-4", "probe-pediatric_pneumonia-4"):
        assert compose("probe", after[name][1:]).fractions == [0.01, 0.1]
    assert compose("probe", commands.judging([])["probe-shenzhen-0"][1:]).run is None
