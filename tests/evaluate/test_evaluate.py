"""``python -m dira_scale.evaluate``: a run on its own test split and on other datasets, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset.conftest import make_dataset
from finetune.conftest import TINY, TINY_VOLUMES
from localize.made_up import NAMES, sees_brightness, tuned
from omegaconf import OmegaConf
from recorded import derived
from toy_run import train
from train.data.volumes import make, random_volumes

from dira_scale import api
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.evaluate import main
from dira_scale.finetune import main as finetune
from dira_scale.judge.evaluation.config import check
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.judge.evaluation.results import evaluated, read_results
from dira_scale.judge.tasks.task import task_of

__all__ = ["make_dataset"]
pytestmark = pytest.mark.usefixtures("libraries")
Make = Callable[..., ShardedDataset]
LABELS, GRADES = ("bright", "coin", "grade", "age"), ["none", "mild", "severe"]
MASKS = "task.classes={upper: 1, lower: 2}"
PROTOCOL = "evaluate.crops=ten_crops", "evaluate.share=0.8", "evaluate.temperature=true", "normalise=imagenet"


@pytest.fixture
def shown(make_dataset: Make) -> Callable[..., ShardedDataset]:
    def make(name: str = "shown", labels: tuple[str, ...] = LABELS, **info: Any) -> ShardedDataset:
        """16 images to train on, 12 for validation, 12 for test: discs of three grades of brightness, of which every
        sixth has no mask; every fifth coin is unknown. ``labels``: in this order."""
        generator = np.random.default_rng(0)
        images, masks, rows = [], [], []
        y, x = np.mgrid[:40, :48]
        for number in range(40):
            disc = (y - 20) ** 2 + (x - 24) ** 2 < generator.integers(8, 12) ** 2
            image = generator.integers(0, 60, disc.shape).astype(np.uint8)
            image[disc] += np.uint8(60 * (number % 3))
            images.append(image)
            masks.append(None if number % 6 == 5 else (disc * (1 + (y > 20))).astype(np.uint8))
            coin = np.nan if number % 5 == 0 else float(generator.integers(2))
            values = {"bright": float(number % 3 == 2), "coin": coin, "grade": float(number % 3), "new": 1.0}
            values["age"] = 20.0 + 30 * (number % 3) + generator.integers(5)
            rows.append([values[label] for label in labels])
        splits, classes = ["train"] * 16 + ["val"] * 12 + ["test"] * 12, {"grade": GRADES} if "grade" in labels else {}
        return make_dataset(
            images, name=name, label_names=labels, labels=rows, masks=masks, splits=splits, classes=classes, **info
        )

    return make


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def assert_as_the_run_has_it(run: Path, out: Path) -> None:
    """All that both say of the test split, bit for bit: figures, intervals, thresholds, cases, pictures."""
    theirs, ours = results(run), results(out)
    for content in (theirs, theirs.get("calibrated", {})):  # of the test split alone
        of_splits = {name: content[name] for name in ("figures", "never_answered", "without_mask") if name in content}
        content |= {name: {"test": of["test"]} for name, of in of_splits.items()}
    theirs["splits"] = {"test": theirs["splits"]["test"]}
    differing = [name for name in theirs.keys() - {"leak", "norm_passes"} if ours[name] != theirs[name]]
    assert not differing
    files = [{path.name: path.read_bytes() for path in (folder / "cases").glob("test*")} for folder in (run, out)]
    assert files[0] == files[1]


def test_a_run_on_its_own_test_split_and_its_export_on_other_data(
    shown: Callable[..., ShardedDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """With the run's crops, thresholds and temperatures; of the other dataset labels by name, in another order."""
    dataset, run, out = shown(), tmp_path / "run", tmp_path / "out"
    words = ["task=labels", "task.labels=[coin,bright]", "task.unknown=zeros", "task.scored=[bright]", *PROTOCOL]
    assert finetune([*TINY, f"data.shards={dataset.root}", f"run={run}", *words]) == 0
    requested = [f"run={run}", f"data.shards={dataset.root}", f"out={out}", "batch=8"]

    def no_space(*arguments: Any) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:  # as if killed when cases are written
        patched.setattr("dira_scale.evaluate.make.page", no_space)
        assert main([*requested, "data.split=val"]) == 2
    assert "out cannot be written (No space left on device): free some space, or name another, out=…" in (
        capsys.readouterr().err
    )
    assert not (out / "results.json").exists()
    assert main(requested) == 0
    printed = capsys.readouterr().out
    assert_as_the_run_has_it(run, out)
    content, page = results(out), (out / "report.html").read_text()
    auroc = next(f for f in read_results(out)["figures"]["test"] if f.key == ("AUROC", "mean"))
    assert f"shown, split 'test': {auroc.with_interval()}" in printed and auroc.interval
    assert content["leak"]["verdict"] == "no leak" and f"trained on by run={run}" in printed
    assert (content["step"], content["network"]) == (results(run)["step"], "run")
    assert auroc.in_words() in page and "ROC curves, test split" in page and "no patient of split test of shown" in page
    assert str(tmp_path) not in page and "was trained on by run=run" in page
    assert dict(evaluated(out)[0]) == {k: v for k, v in evaluated(run)[0] if k.startswith("test/")}
    assert evaluated(out)[1]["data"]["split"] == "test"

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(requested) == 0 and "is complete" in capsys.readouterr().out
    assert main([*requested, "data.split=val"]) == 2 and "has results of another data" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main([*requested, "data.split=val", f"out={tmp_path / 'val'}"]) == 0
    lines = results(tmp_path / "val")["leak"]["lines"]
    assert f"run={run} chose its checkpoint on 12 of the 12 patients" in lines[1]
    assert "ROC curves, val split" in (tmp_path / "val" / "report.html").read_text()

    other, exported = shown("other", ("new", "bright", "coin")), api.export(run, {"formats": ["plain"]})
    capsys.readouterr()
    content = api.evaluate(exported, tmp_path / "other_out", other.root, {"batch": 8})
    assert content["figures"] == results(out)["figures"] and content["calibrated"] == results(out)["calibrated"]
    assert content["leak"]["verdict"] == "not checkable" and content["data"]["hash"] == other.hash
    assert "patients: not checkable: " in capsys.readouterr().out
    assert "of an export, name the run&#39;s folder" in (tmp_path / "other_out" / "report.html").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["task=labels", "task.labels=[grade]", "task.exclusive=true", "stages.finetune.epochs=4"],
        ["task=regression", "task.labels=[age]"],
        ["task=masks", MASKS],
        pytest.param(["task=masks", MASKS, "evaluate.window=sliding"], marks=pytest.mark.system),
    ],
    ids=["classes", "numbers", "masks", "masks through windows"],
)
def test_classes_numbers_and_masks_are_evaluated_as_the_run_has_them(
    words: list[str], shown: Callable[..., ShardedDataset], tmp_path: Path
) -> None:
    dataset, run, out = shown(), tmp_path / "run", tmp_path / "out"
    assert finetune([*TINY, f"data.shards={dataset.root}", f"run={run}", *words]) == 0
    requested = [f"run={run}", f"data.shards={dataset.root}"]
    assert main([*requested, f"out={out}", "batch=8"]) == 0
    assert_as_the_run_has_it(run, out)
    assert any(figure["interval"] for figure in results(out)["figures"]["test"])
    if "task=masks" in words:
        assert results(out)["without_mask"] == {"test": 2}
        assert len([*(out / "cases").glob("*.jpg")]) == (out / "report.html").read_text().count("data:image/jpeg") == 6
        other = "whole" if "evaluate.window=sliding" in words else "sliding"
        assert main([*requested, f"out={tmp_path / 'other'}", f"window={other}"]) == 0
        assert results(tmp_path / "other")["window"] == other
        assert results(tmp_path / "other")["figures"] != results(out)["figures"]


def test_masks_of_volumes_are_evaluated_in_the_spacing_and_range_of_the_run(tmp_path: Path) -> None:
    shards, run, out = make(tmp_path / "toy", random_volumes(14), val=6), tmp_path / "run", tmp_path / "out"
    words = ["task=masks", "data.size=[16,16,12]", "data.batch=4", "data.test_split=val", "data.pad=true"]
    words += ["data.spacing=[3,0.8,0.8]", "data.range=[-1000,2000]"]
    words += ["stages.finetune.epochs=12", "optim.optimizer.lr=3e-2"]
    assert finetune([*TINY_VOLUMES, *words, f"data.shards={shards.root}", f"run={run}"]) == 0
    assert main([f"run={run}", f"data.shards={shards.root}", "data.split=val", f"out={out}"]) == 0
    assert_as_the_run_has_it(run, out)
    assert results(out)["window"] == "sliding" and results(out)["without_mask"] == {"test": 3}
    assert results(out)["figures"]["test"][0]["value"] > 0.1  # something is predicted


def test_runs_and_datasets_that_do_not_fit_are_refused_before_anything_is_written(
    shown: Callable[..., ShardedDataset], make_dataset: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = shown("two", ("bright", "new"))
    run = tuned(tmp_path / "run", "task=labels")  # of bright and dark
    images = [np.zeros((40, 40, 4), np.uint8)] * 2
    four = make_dataset(images, name="four", splits=["train", "test"], label_names=NAMES)
    whole = make_dataset([image[..., 0] for image in images], name="whole", splits=["train", "test"], label_names=NAMES)
    none = make_dataset([image[..., 0] for image in images], name="none", splits=["train", "test"], label_names=())
    unknown = make_dataset(
        [image[..., 0] for image in images], name="unknown", splits=["train", "test"], label_names=NAMES,
        labels=[[1.0, 0.0], [1.0, np.nan]],
    )  # fmt: skip
    volumes, out = make(tmp_path / "volumes", random_volumes(2), test=1), tmp_path / "out"
    leaking = tuned(tmp_path / "leaks", "task=labels", "data.split=test", "data.val_split=train", hash=whole.hash)
    for requested, data, printed in (
        ([f"run={tmp_path / 'nowhere'}"], dataset, "is not a folder: name a fine-tuned run, or its export"),
        ([f"run={train(tmp_path / 'pretrained', seed=0)}"], dataset, "is of pretrain: fine-tune it first"),
        ([f"run={run}", "window=whole"], dataset, "windows are of masks, and this network has labels; leave it out"),
        ([f"run={run}"], volumes, "holds volumes, and this network reads images"),
        ([f"run={run}"], four, f"four has images of 4 channels, and the network {run.name} takes 1 or 3"),
        ([f"run={run}", "data.split=tset"], dataset, f"{dataset.root} has train, val, test; did you mean 'test'?"),
        ([f"run={run}", "data.split=all"], dataset, f"data.split=all: {dataset.root} has train, val, test"),
        ([f"run={run}"], dataset, f"run={run} has learned bright, dark, and all of it is asked for: task.labels: "
         f"expected labels of {dataset.root}, which has no label 'dark', but bright, new"),
        ([f"run={run}"], none, "none has no labels: shard it again with recipe.labels=… and another out"),
        ([f"run={run}"], unknown, "label 'dark' is unknown in all 1 samples: name another split, or another dataset"),
        ([f"run={leaking}"], whole, "figures would be too good"),
    ):  # fmt: skip
        assert main([*requested, f"data.shards={data.root}", f"out={out}"]) == 2
        assert printed in capsys.readouterr().err
    assert not out.exists()
    before = sorted(run.rglob("*"))
    assert main([f"run={run}", f"data.shards={whole.root}", f"out={run}"]) == 2
    assert "holds files that this command has not written" in capsys.readouterr().err
    assert before == sorted(run.rglob("*"))


def test_volumes_smaller_than_the_views_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TrainedRun, "of", classmethod(lambda cls, folder: sees_brightness(24, 24, 24)))
    volumes = make(tmp_path / "volumes", random_volumes(2), test=1)
    assert main([f"run={tmp_path}", f"data.shards={volumes.root}", f"out={tmp_path / 'out'}"]) == 2
    printed = capsys.readouterr().err
    assert "fewer than a crop of 24 x 24 x 24, as have 1 of 1 in split 'test': name a dataset of larger" in printed


REFUSED: dict[str, tuple[list[str], list[str], str]] = {
    "more classes": (
        ["task=labels", "task.exclusive=true"], ["grade: none", "grade: mild"],
        r"has the classes grade: none, grade: mild, grade: severe: shard it again with the same recipe\.class_columns",
    ),
    "no such class": (["task=labels"], ["grade: worst"], "has no label 'grade: worst', but bright, coin, grade, age"),
    "classes for a number": (["task=regression"], ["grade"], "'grade' of .* is a label of classes, which have no"),
    "a number for a label": (["task=labels"], ["age"], "split 'test': label 'age' has the value 53: need 0, 1, -1"),
    "no such number": (["task=regression"], ["weight"], "has no label 'weight'"),
    "several values": (["task=masks"], ["mask"], "values 1, 2 beside 0, .* one: name another split, or"),
    "another class": (
        ["task=masks", "task.classes={upper: 1}"], ["background", "upper"],
        "also have the value 2: name another split, or another dataset",
    ),
    "a class that none has": (
        ["task=masks", "task.classes={a: 1, b: 2, c: 3}"], ["background", "a", "b", "c"],
        "have no pixel of 'c': name another split, or another dataset",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "outputs", "printed"), REFUSED.values(), ids=REFUSED.keys())
def test_a_dataset_must_have_what_was_learned(
    words: list[str], outputs: list[str], printed: str, shown: Callable[..., ShardedDataset]
) -> None:
    node: Any = OmegaConf.to_container(compose("finetune", ["init=random", "data.shards=any", *words]).task)
    with pytest.raises(UserError, match=printed):
        task_of(node).evaluated({"outputs": outputs, "normalised": {}}, shown(), "test")


def test_nor_are_masks_evaluated_where_none_are(make_dataset: Make) -> None:
    dataset = make_dataset([np.zeros((8, 8), np.uint8)], splits=["test"])
    node: Any = OmegaConf.to_container(compose("finetune", ["init=random", "data.shards=any", "task=masks"]).task)
    with pytest.raises(UserError, match="no sample in split 'test' has a mask"):
        task_of(node).evaluated({"outputs": ["mask"]}, dataset, "test")


def test_a_sweeps_check_refuses_runs_that_have_not_trained_yet() -> None:
    def planned(command: str, *keys: str) -> dict[str, Any]:
        words = ["data.shards=any", "model.encoder=test_resnet", "data.size=32"]
        return {
            "r1": derived(
                command,
                OmegaConf.to_container(compose(command, [*words, *["init=random"] * (command == "finetune"), *keys])),
            )
        }

    cfg = compose("evaluate", ["run=r", "data.shards=d", "out=o", "window=sliding"])
    check(cfg, planned("finetune", "task=masks"))
    for runs, printed in (
        (planned("pretrain"), "run=r1 is of pretrain: fine-tune it first"),
        (planned("finetune", "task=labels"), "window=sliding: windows are of masks, and this network has labels"),
    ):
        with pytest.raises(UserError, match=printed):
            check(cfg, runs)
