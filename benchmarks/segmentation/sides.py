"""The two sides, on one dataset: each tries how long its steps take, trains as many as end in time, and predicts."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_json
from dira_scale.dataset.manifest import ShardedDataset

CORES = len(os.sched_getaffinity(0))
USEFUL = 0.5  # validation Dice, the mean over classes
VALIDATIONS, SHARE = 20, 1 / 6  # of ours: the preset's number, in this share of the time at most (nnU-Net: 50 of 300)
PILOT = 25  # steps of ours
EPOCHS = 50  # of nnU-Net, of any length; fewer where there is no time for so many of the shortest
TRAINER, DATASET = "BudgetTrainer", "Dataset001_Bench"
Result = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """``shards``: of volumes with masks; ``words``: of `finetune`, that name their task; ``device``: cpu or cuda."""

    shards: Path
    words: Sequence[str]
    minutes: float
    device: str

    @cached_property
    def dataset(self) -> ShardedDataset:
        return ShardedDataset.open(self.shards)

    def config(self, words: Sequence[str] = ()) -> Any:
        """Return the configuration of `finetune`, with more ``words``."""
        return compose("finetune", [*self.words, *words, f"data.shards={self.shards}"])

    @property
    def classes(self) -> dict[str, int]:
        """Raises UserError for what nnU-Net is not given here: regions, and values that are not 1, 2, …"""
        classes = dict(self.config().task.get("classes") or {})
        if not classes or [*classes.values()] != [*range(1, 1 + len(classes))]:
            raise UserError(f"--task: its classes must be names of the values 1, 2, …, not {classes or 'none'}")
        return classes

    def keys(self, split: str) -> dict[str, int]:
        """The rows of a split's volumes that have masks, by key."""
        rows = [row for row in self.dataset.rows(split).tolist() if self.dataset.has_mask(row)]
        return {str(self.dataset.cell("key", row)): row for row in rows}

    def mask(self, row: int) -> np.ndarray:
        return np.asarray(self.dataset.mask(row), np.uint8)

    def cases(self, masks: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        """The predicted and the true masks of all test volumes, [z, y, x]."""
        import nibabel

        files = {masks / f"{key}.nii.gz": row for key, row in self.keys("test").items()}
        return [(np.asarray(nibabel.load(file).dataobj).T, self.mask(row)) for file, row in files.items()]

    def run(self, log: Path, *command: object, **variables: object) -> None:
        """Raises UserError where the command fails."""
        hidden = {} if self.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        given = os.environ | hidden | {name: str(value) for name, value in variables.items()}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            ended = subprocess.run([*map(str, command)], stdout=out, stderr=out, env=given)
        if ended.returncode:
            last = (log.read_text().strip().splitlines() or ["nothing was printed"])[-1]
            raise UserError(f"{command[0]} ended with {ended.returncode}, see {log}: {last}")

    def result(self, ends: Sequence[float], dice: Sequence[float], steps: int, patch: Any, batch: int) -> Result:
        """``ends``: the seconds after validations, which found ``dice``; the last is that of all."""
        first = next((end for end, figure in zip(ends, dice, strict=True) if figure > USEFUL), None)
        return {"seconds": ends[-1], "first": first, "steps": steps, "patch": [*patch], "batch": batch}


@dataclass(frozen=True)
class Ours:
    """``words``: of `finetune`, beside the task's."""

    bench: Bench
    words: Sequence[str]

    @property
    def name(self) -> str:
        return " ".join(["ours", *self.words])

    def train(self, folder: Path, seed: int) -> Result:
        config, limit = self.bench.config(self.words), 60 * self.bench.minutes
        data, run = config.data, partial(self._run, seed, config.stages.finetune.epochs)
        per_epoch = math.ceil(data.crops * len(self.bench.keys("train")) / data.batch)
        epochs = math.ceil(PILOT / per_epoch)
        first, *rest = [row for row in run(folder / "pilot", epochs, epochs) if row["split"] == "train"]
        step = sum(row["time/step"] + row["time/data"] for row in rest) / (rest[-1]["step"] - first["step"])
        validation = sum(row.get("time/validate", 0.0) for row in rest)
        count = max(1, min(VALIDATIONS, int(SHARE * limit / validation)))
        every = max(1, round((limit / count - validation) / (step * per_epoch)))
        count = max(1, round(limit / (every * step * per_epoch + validation)))
        ends, dice, seconds, figure = list[float](), list[float](), 0.0, 0.0
        for row in (rows := run(folder / "run", count * every, every)):
            if row["split"] == "val":  # its time is in the next row; the middle of volumes tells nothing of the whole
                figure = row.get("volume_dice", 0.0)
            else:
                seconds += sum(row.get(f"time/{part}", 0.0) for part in ("step", "data", "validate"))
                ends, dice, figure = [*ends, seconds], [*dice, figure], 0.0
        return self.bench.result(ends, dice, rows[-1]["step"], data.size, data.batch)

    def _run(self, seed: int, preset: int, run: Path, epochs: int, every: int) -> list[Result]:
        words = [f"epoch_factor={epochs / preset}", f"validate.every={every}", f"parallel.threads={CORES}"]
        words += [f"seed={seed}", "data.test_split=null", f"data.shards={self.bench.shards}", f"run={run}"]
        command = [sys.executable, "-m", "dira_scale.finetune", *self.bench.words, *self.words, *words]
        self.bench.run(run.with_suffix(".log"), *command)
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

    def predict(self, folder: Path) -> Path:
        words = [f"run={folder / 'run'}", f"data.shards={self.bench.shards}", "data.split=test", f"threads={CORES}"]
        out = folder / "predicted"
        self.bench.run(folder / "predict.log", sys.executable, "-m", "dira_scale.predict", *words, f"out={out}")
        return out / "masks"


@dataclass(frozen=True)
class NnUNet:
    """3d_fullres as planned by default. ``python``: of its environment; ``folder``: of its forms of the data."""

    bench: Bench
    python: Path
    folder: Path
    name = "nnU-Net"

    def train(self, folder: Path, seed: int) -> Result:
        """The trainer takes no seed: another one is another run."""
        if not (splits := self.folder / "preprocessed" / DATASET / "splits_final.json").exists():  # is written last
            shutil.rmtree(self.folder, ignore_errors=True)
            self._write(self.folder / "raw" / DATASET)
            words = "-d", 1, "-c", "3d_fullres", "-npfp", CORES, "-np", CORES
            self._run(self.folder, "plan_and_preprocess", *words)
            fold = {split: [*self.bench.keys(split)] for split in ("train", "val")}
            splits.write_text(json.dumps([fold]))
        count = 60 * self.bench.minutes / self._epochs(folder / "pilot", 2, 1)["seconds"][-1]
        validations = max(1, int(count / EPOCHS))
        found = self._epochs(folder, max(1, round(count / validations)), validations)
        ends = [*accumulate(found["seconds"])]
        steps = found["iterations"] * len(ends)
        return self.bench.result(ends, found["dice"], steps, found["patch"], found["batch"])

    def _write(self, raw: Path) -> None:
        """All voxels as they are stored; the test volumes' masks stay with us."""
        import nibabel

        for split in ("train", "val", "test"):
            part, dataset = "Ts" if split == "test" else "Tr", self.bench.dataset
            for key, row in self.bench.keys(split).items():
                files = {f"images{part}/{key}_0000": np.asarray(dataset.voxels(row)[...])}
                files |= {} if split == "test" else {f"labelsTr/{key}": self.bench.mask(row)}
                for name, voxels in files.items():
                    (raw / name).parent.mkdir(parents=True, exist_ok=True)
                    affine = np.array(dataset.cell("affine", row), float).reshape(4, 4)
                    nibabel.Nifti1Image(voxels.T, affine, dtype=voxels.dtype).to_filename(raw / f"{name}.nii.gz")
        about = {"channel_names": {"0": dataset.info.modality}, "labels": {"background": 0, **self.bench.classes}}
        count = len(self.bench.keys("train")) + len(self.bench.keys("val"))
        write_json(raw / "dataset.json", about | {"numTraining": count, "file_ending": ".nii.gz"})

    def _epochs(self, folder: Path, epochs: int, validations: int) -> Result:
        words = 1, "3d_fullres", 0, "-tr", TRAINER, "-device", self.bench.device
        self._run(folder, "train", *words, BUDGET=f"{epochs} {validations}")
        (file,) = folder.glob("results/*/*/fold_0/epochs.json")
        result: Result = json.loads(file.read_text())
        return result

    def predict(self, folder: Path) -> Path:
        images, out = self.folder / "raw" / DATASET / "imagesTs", folder / "predicted"
        words = "-i", images, "-o", out, "-d", 1, "-f", 0, "-c", "3d_fullres", "-tr", TRAINER
        self._run(folder, "predict", *words, "-device", self.bench.device, "-npp", 1, "-nps", 1, BUDGET="1 1")
        return out

    def _run(self, folder: Path, command: str, *words: object, **variables: str) -> None:
        paths = {f"nnUNet_{name}": self.folder / name for name in ("raw", "preprocessed")}
        paths |= {"nnUNet_results": folder / "results", "nnUNet_extTrainer": Path(__file__).with_name("nnunet")}
        program = self.python.absolute().with_name(f"nnUNetv2_{command}")
        self.bench.run(folder / f"{command}.log", program, *words, nnUNet_n_proc_DA=CORES, **paths, **variables)
