"""Each preset on a task that it knows, from shards of its kind of data to figures on the test split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from archive.ingest import recipe
from archive.sources.miniatures_colour import CITYSCAPES, cityscapes
from dataset.conftest import make_dataset
from finetune.miniatures import sharded
from harness import rows

from dira_scale.base.config.compose import compose
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import MaskCase, read_cases
from dira_scale.evaluate import main as evaluate
from dira_scale.finetune import main
from dira_scale.predict import main as predict
from dira_scale.shard.convert import convert
from dira_scale.train.runs.reader import RunReader

__all__ = ["make_dataset"]
SMALL = [
    "data.size=64", "data.batch=4", "data.workers=1", "model.decoder_channels=[16,16,8,8,8]", "parallel.threads=1",
    "validate.batch=4", "log_every=1",
]  # fmt: skip
SMALLER = ["data.size=[16,16,16]", "data.batch=2", "data.pad=true", "model.width=0.25",
           *(word for word in SMALL if not word.startswith(("data.size", "data.batch", "model")))]  # fmt: skip
CT = {"spacing": None, "clip": [-1024, 3071], "range": [-1000, 1000], "irregular": "resample"}
ENCODER = {"resnet50": "test_resnet", "resnet18": "test_resnet", "convnext_base": "test_convnext"}


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(("preset", "task"), [("btl_v1", "chexpert"), ("btl_v2", "siim_acr"), ("pcrl", "chestxray14")])
def test_two_epochs_of_a_protocol(
    preset: str, task: str, tmp_path: Path, make_dataset: Callable[..., ShardedDataset]
) -> None:
    """Labels are yes, no, uncertain and unknown; every second mask has a pneumothorax."""
    run, rng = tmp_path / "run", np.random.default_rng(0)
    words = ["init=random", f"preset={preset}", f"task={task}", "data.shards=any", f"run={run}"]
    whole = compose("finetune", words)
    images, names = [rng.integers(0, 256, (56, 64), np.uint8) for _ in range(70)], whole.task.get("labels") or []
    splits = ["train"] * 42 + ["val"] * 14 + ["test"] * 14
    labels = np.where(np.array(splits)[:, None] == "train", rng.choice([1, 0, -1, np.nan], (70, len(names))), 0)
    labels[42:] = rng.integers(0, 2, (28, len(names)))
    masks = [np.uint8(n % 2) * np.tri(56, 64, dtype=np.uint8) for n in range(70)]
    given = {"labels": labels.tolist(), "label_names": names} if names else {"masks": masks, "label_names": ()}
    words[3] = f"data.shards={make_dataset(images, splits=splits, **given).root}"
    short = f"epoch_factor={2 / whole.stages.finetune.epochs}"  # the warm-up is shorter, too
    assert main([*words, *SMALL, f"model.encoder={ENCODER[whole.model.encoder]}", short]) == 0
    assert [row["epoch"] for row in rows(run, "val")] == [1, 2]
    figures = json.loads((run / "results.json").read_text())["figures"]["test"]
    metric = "AUROC" if "ce" in whole.task.loss else "Dice"
    assert {(row["metric"], row["name"]): row["value"] for row in figures}[metric, "mean"] is not None
    assert any(f"preset `{preset}`" in line for line in RunReader(run).description.training)


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
def test_an_fcn_on_cityscapes(tmp_path: Path) -> None:
    """From the archive to the mean over classes of the IoU of all pixels that are known, of the last checkpoint."""
    cityscapes(tmp_path / "source")
    convert(recipe("cityscapes", images=str(tmp_path / "source")), tmp_path / "shards", 1)
    run, shards = tmp_path / "run", tmp_path / "shards"
    words = ["init=random", "preset=fcn", "task=cityscapes", f"data.shards={shards}", f"run={run}"]
    small = (word for word in SMALL if not word.startswith("data.batch"))
    assert main([*words, *small, "data.batch=2", "model.encoder=test_resnet", f"epoch_factor={2 / 484}"]) == 0
    cases = read_cases(run / "cases" / "test.parquet", MaskCase)
    assert len(cases) == 19 and {case.split for case in cases} == {"test"}
    each = [case.overlap / (case.predicted + case.present - case.overlap) for case in cases]
    assert figures(run)["pooled IoU", "mean"] == pytest.approx(sum(each) / 19)
    known = sum(value > 0 for _, value in CITYSCAPES) / len(CITYSCAPES)
    assert sum(case.predicted for case in cases) == pytest.approx(known * 48 * 40, rel=0.02)  # none elsewhere


def figures(folder: Path) -> dict[tuple[str, str], Any]:
    """Return those of the test split, by metric and name."""
    rows = json.loads((folder / "results.json").read_text())["figures"]["test"]
    return {(row["metric"], row["name"]): row["value"] for row in rows}


def pooled(run: Path) -> Any:
    """The intersection over union of all test cases together, of one class."""
    cases = read_cases(run / "cases" / "test.parquet", MaskCase)
    overlap = sum(case.overlap for case in cases)
    return pytest.approx(overlap / sum(case.predicted + case.present - case.overlap for case in cases))


def tuned(preset: str, task: str, shards: Path, run: Path, *words: str) -> dict[tuple[str, str], Any]:
    """Two epochs of a protocol of volumes, small; the figures of its test split."""
    words = ("init=random", f"preset={preset}", f"task={task}", f"data.shards={shards}", f"run={run}", *words)
    short = f"epoch_factor={2 / compose('finetune', [*words]).stages.finetune.epochs}"
    assert main([*words, *SMALLER, short]) == 0
    return figures(run)


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
def test_brats_by_both_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DiRA's whole tumour from FLAIR; from its encoder, whose BatchNorm becomes GroupNorm, PCRL's three regions from
    four modalities, then evaluated again and written as masks."""
    shards, first, run = sharded("brats", tmp_path / "one"), tmp_path / "first", tmp_path / "run"
    of_whole = tuned("dira3d", "brats", shards, first, "data.spacing=[2,1,1]")
    assert of_whole["pooled IoU", "whole"] == of_whole["pooled IoU", "mean"] == pooled(first)

    four = sharded("brats", tmp_path / "four", modalities=["t1", "t2", "flair", "t1ce"])
    words = [word for word in SMALLER if word != "model.width=0.25"]  # that of init
    monkeypatch.setattr("finetune.test_protocol_runs.SMALLER", words)
    of_regions = tuned("pcrl3d", "brats", four, run, f"init={first}", "optim.optimizer.lr=1e-2")
    names = ["whole", "core", "enhancing"]
    mean = np.mean([of_regions["Dice", name] for name in names])
    assert of_regions["Dice", "mean"] == pytest.approx(mean) and np.isfinite(mean)
    network = RunReader(run).description.network
    assert network.architecture["norm"] == "group" and network.architecture["width"] == 0.25 and network.channels == 4
    log = (run / "log.txt").read_text()
    assert "encoder (our own names" in log and "decoder" not in log.partition(" loaded;")[0]

    out = tmp_path / "again"
    assert evaluate([f"run={run}", f"data.shards={four}", f"out={out}"]) == 0
    assert figures(out) == pytest.approx(of_regions, nan_ok=True)
    assert predict([f"run={run}", f"data.shards={four}", f"out={tmp_path / 'masks'}"]) == 0
    written = [np.asarray(nibabel.load(file).dataobj) for file in (tmp_path / "masks" / "masks").iterdir()]
    assert {0} < {*np.unique(np.stack(written)).tolist()} <= {0, 1, 2, 4}


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("preset", "task", "recipe", "volume"),
    [
        ("dira3d", "lidc", "lidc_nodules", CT | {"spacing": [1, 1, 1], "crop": {"boxes": [16, 16, 16]}}),
        pytest.param("dira3d", "lits", "lits", CT | {"crop": "none"}, marks=pytest.mark.torture),
        ("pcrl3d", "lits", "lits", CT | {"crop": {"mask": 3}}),
    ],
)
def test_two_epochs_of_a_protocol_of_volumes(
    preset: str, task: str, recipe: str, volume: dict[str, Any], tmp_path: Path
) -> None:
    shards = sharded(recipe, tmp_path, volume=volume)
    found = tuned(preset, task, shards, tmp_path / "run")
    name = "mask" if task == "lidc" else "liver"
    cases = read_cases(tmp_path / "run" / "cases" / "test.parquet", MaskCase)
    assert cases and {case.label for case in cases} == {name} and found["pooled IoU", name] == pooled(tmp_path / "run")
    assert found["IoU", name] == pytest.approx(np.mean([case.iou for case in cases]))
    assert [row["epoch"] for row in rows(tmp_path / "run", "val")] == [1, 2]


@pytest.mark.torture
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("task", "recipe", "keys", "words"),
    [
        ("luna16", "luna16_candidates", {}, []),
        ("lidc", "lidc_nodules", {"volume": CT | {"spacing": [1, 1, 1], "crop": {"boxes": [16, 16, 16]}}}, []),
        ("lits", "lits", {"volume": CT | {"crop": "none"}}, []),
        ("brats", "brats", {}, ["data.spacing=[2,1,1]"]),
    ],
)
def test_a_cell_of_table_3_trains_until_its_loss_is_flat(
    task: str, recipe: str, keys: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    """By the protocol's own number of crops, batch, rate and patience: at its end it says so, and has learned."""
    shards, run = sharded(recipe, tmp_path, **keys), tmp_path / "run"
    small = ["data.size=[8,16,16]", "model.width=0.125", "data.pad=true", "data.workers=1", "log_every=5", *words]
    assert main(["init=random", f"task={task}", "preset=dira3d", f"data.shards={shards}", f"run={run}", *small]) == 0
    log = (run / "log.txt").read_text()
    assert (
        "stage finetune ends: no lower validation loss" in log and "the training loss no longer falls clearly: " in log
    )
    assert figures(run)["AUROC" if task == "luna16" else "pooled IoU", "mean"] > 0.7
