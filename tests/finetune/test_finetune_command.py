"""``python -m dira_scale.finetune`` from shards to figures on the test split, and what it refuses before it trains."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finetune.conftest import NAMES, TINY, TINY_VOLUMES
from harness import assert_equal_runs, rows, status
from omegaconf import OmegaConf
from train.data.volumes import make, plain_view, random_volumes

from dira_scale.api import export
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import MaskCase, label_arrays, read_cases
from dira_scale.dataset.metrics.classification import classification
from dira_scale.dataset.metrics.segmentation import segmentation
from dira_scale.dataset.metrics.temperature import label_temperatures
from dira_scale.dataset.metrics.thresholds import choose_thresholds
from dira_scale.finetune import main
from dira_scale.judge.tasks.mask_values import check_masks
from dira_scale.train.inputs import Inputs
from dira_scale.train.methods import views_of
from dira_scale.train.models.weights import trained_encoder, trained_network
from dira_scale.train.runs.reader import RunReader

pytestmark = pytest.mark.usefixtures("libraries")
PROTOCOL = "normalise=imagenet", "evaluate.share=0.875", "evaluate.crops=ten_crops", "task.weights=balanced"
CALIBRATED = "evaluate.temperature=true"
PLATEAU = "optim.schedule=plateau", "optim.patience=0", "validate.best=loss"
UNSETTLED = "validate.norm_passes=0"  # in 24 steps, of which some are then no better than those before
SCORED = "task.scored=[bright]"
CLASSES = "task.classes={upper: 1, lower: 2}"


def finetune(run: Path, shards: Path, *words: str) -> int:
    return main([*TINY, f"data.shards={shards}", f"run={run}", *words])


def results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


@pytest.mark.system
@pytest.mark.parametrize(
    "task",
    [
        ["task=labels", "stages.finetune.epochs=8", "stages.finetune.patience=3", *PLATEAU, SCORED, UNSETTLED],
        ["task=masks", CLASSES],
    ],
    ids=["labels", "masks"],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(task: list[str], discs: Path, tmp_path: Path) -> None:
    """Also in the figures of its best checkpoint on the test split, and in its cases; and where it ends early."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert finetune(whole, discs, *task) == 0
    stop = 10 if "task=labels" in task else 4
    assert finetune(parts, discs, *task, f"steps={stop}") == 0
    assert status(parts)["step"] == stop and not (parts / "results.json").exists()
    (parts / "results.json").write_text(json.dumps(results(whole) | {"step": 0}))  # of a checkpoint that is none now
    assert finetune(parts, discs, *task) == 0
    assert_equal_runs(parts, whole)
    if "task=labels" in task:  # that of labels ends early, and its rate falls when its loss does not
        assert status(whole)["step"] < 3 * 8
        assert {row["step"]: row["lr"] for row in rows(whole)} == {row["step"]: row["lr"] for row in rows(parts)}
        assert len({row["lr"] for row in rows(whole)}) > 1
        assert all(row["auroc"] == row["auroc/bright"] for row in rows(whole, "val"))
        figures = {(row["metric"], row["name"]): row["value"] for row in results(whole)["figures"]["test"]}
        assert figures["AUROC", "mean"] == figures["AUROC", "bright"] and ("AUROC", "coin") in figures
    for file in ("results.json", "cases/val.parquet", "cases/test.parquet"):
        assert (parts / file).read_bytes() == (whole / file).read_bytes(), file
    before = (whole / "results.json").stat().st_mtime_ns
    assert finetune(whole, discs, *task) == 0
    assert (whole / "results.json").stat().st_mtime_ns == before  # not evaluated again


@pytest.mark.system
def test_figures_of_labels_are_those_of_the_best_checkpoints_cases(discs: Path, tmp_path: Path) -> None:
    """As a protocol has it: normalised, ten crops in the test. Thresholds are chosen on the validation split; a case is
    named by its key in the manifest."""
    run = tmp_path / "run"
    words = ["task=labels", "stages.finetune.epochs=6", "optim.optimizer.lr=3e-3", *PROTOCOL, CALIBRATED]
    assert finetune(run, discs, *words) == 0
    content, dataset = results(run), ShardedDataset.open(discs)
    val, test = (read_cases(run / "cases" / f"{split}.parquet") for split in ("val", "test"))
    assert {case.key for case in test} == {dataset.cell("key", row) for row in dataset.rows("test").tolist()}
    targets, scores, names, patients = label_arrays(test)
    assert names == [*NAMES]
    np.testing.assert_array_equal(targets[np.argsort([case.key for case in test[::2]])].shape, (12, 2))
    truth = {dataset.cell("key", row): dataset.labels(np.array([row]))[0] for row in dataset.rows("test").tolist()}
    np.testing.assert_array_equal(targets, np.stack([truth[case.key] for case in test[::2]]))

    thresholds = choose_thresholds(*label_arrays(val)[:2])
    expected = classification(targets, scores, names, patients, thresholds)
    written = {(row["metric"], row["name"]): row["value"] for row in content["figures"]["test"]}
    for figure in expected:
        assert written[figure.metric, figure.name] == (None if np.isnan(figure.value) else figure.value)
    validated = rows(run, "val")
    best = max(validated, key=lambda row: row["auroc"])
    assert content["step"] == best["step"]
    figures = {(row["metric"], row["name"]): row["value"] for row in content["figures"]["val"]}
    assert content["crops"] == "ten_crops"
    for figure in classification(*label_arrays(val), thresholds):  # of ten crops, too, so not those of the validation
        assert figures[figure.metric, figure.name] == (None if np.isnan(figure.value) else figure.value)
    assert written["AUROC", "bright"] > 0.9  # it has learned

    of_val, of_test = (np.log(p) - np.log1p(-p) for p in (label_arrays(val)[1], scores))
    fitted = label_temperatures(label_arrays(val)[0], of_val)
    assert [*content["temperatures"].values()] == pytest.approx(fitted.tolist(), rel=1e-4)
    probabilities = 1 / (1 + np.exp(-of_test / fitted))
    after = {(row["metric"], row["name"]): row for row in content["calibrated"]["figures"]["test"]}
    for figure in classification(targets, probabilities, names, patients):  # thresholds are chosen again
        assert after[figure.metric, figure.name]["value"] == pytest.approx(figure.value, abs=1e-3), figure

    exported = export(run)
    for init in (exported, exported / "classifier.safetensors"):  # as of the run itself
        adopted = compose(
            "finetune", ["init=random", "data.shards=any", f"init={init}", "model.decoder_channels=[8,8,8,8,8]"]
        ).model
        assert (adopted.encoder, adopted.decoder_channels, adopted.bn_groups) == ("test_resnet", [8] * 5, 1)
    assert f"the highest validation auroc of its stage, {best['auroc']:.6g}" in (exported / "README.md").read_text()
    described = RunReader(run).description
    assert (described.command, described.network.head, described.output.names) == ("finetune", "pooled", NAMES)
    assert described.input.mean == (0.485, 0.456, 0.406)
    assert described.best == "auroc" and described.output.activation == "sigmoid"


@pytest.mark.system
def test_masks_are_learned_also_from_another_runs_weights(
    discs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    words = ["task=masks", CLASSES, "optim.optimizer.lr=3e-3"]
    assert finetune(first, discs, *words, "stages.finetune.epochs=8") == 0
    adopted = [word for word in TINY if not word.startswith("model.")]
    assert main([*adopted, f"data.shards={discs}", f"run={second}", *words, f"init={first}"]) == 0
    assert RunReader(second).config["model"] == RunReader(first).config["model"]  # as if typed
    cases = read_cases(second / "cases" / "test.parquet")
    figures = {(f.metric, f.name): f.value for f in segmentation(cases)}
    written = {(row["metric"], row["name"]): row["value"] for row in results(second)["figures"]["test"]}
    assert written["Dice", "mean"] == figures["Dice", "mean"] and {"upper", "lower"} == {case.label for case in cases}
    assert rows(second, "train")[0]["loss"] < rows(first, "train")[0]["loss"]  # it knows something already
    described = RunReader(second).description
    assert finetune(tmp_path / "third", discs, *words, f"init={first}", "model.encoder=resnet18") == 2
    assert f"init={first} is of another network: add model.encoder=test_resnet" in caplog.text
    assert described.output.names == ("background", "upper", "lower") and described.network.start == str(first)


@pytest.mark.system
def test_volumes_and_a_network_of_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The code is that of images: nothing in it has two dimensions. Crops of 24 x 12.8 x 9.6 stored voxels, some of
    which are deeper than their volumes; another range of values; judged in the spacing of training."""
    shards, run = make(tmp_path / "toy", random_volumes(14), val=6), tmp_path / "run"
    words = ["task=masks", "data.size=[16,16,12]", "data.batch=4", "data.test_split=val"]
    words += ["data.spacing=[3,0.8,0.8]", "data.range=[-1000,2000]", "views.turns=0.5"]
    arguments = [*TINY_VOLUMES, *words, f"data.shards={shards.root}", f"run={run}"]
    assert main(arguments) == 2
    assert main([*arguments, "data.pad=true"]) == 0
    described = RunReader(run).description
    assert (described.network.dimensions, described.input.window) == (3, (-1000, 2000))
    written = {(row["metric"], row["name"]): row for row in results(run)["figures"]["test"]}
    assert written["Dice", "mean"]["value"] is not None and written["Dice", "mask"]["n"] == 3
    assert results(run)["without_mask"] == {"val": 3, "test": 3}  # every second volume has one
    assert ("HD95 (mm)", "mask") in written and results(run)["window"] == "sliding"
    assert_case_is_monais(run, shards, (-1000, 2000), (3.0, 0.8, 0.8))

    words = ["data.shards=any", f"init={run}", "views.flip=0.25", "model.bn_groups=2"]
    adopted = compose("finetune", words)
    assert adopted.model == RunReader(run).config["model"]  # from that of images, whose keys are gone
    assert adopted.data["size"] == [16, 16, 12] and adopted.views["flip"] == 0.25 and adopted.views.blur.p == 0
    assert adopted.views == compose("finetune", ["init=random", *words, "views=tune_volumes"]).views
    with pytest.raises(UserError, match=r"is a run on volumes, and data.size=64 is of images"):
        compose("finetune", ["init=random", *words, "data.size=64"])
    assert main([*TINY, "task=masks", f"data.shards={shards.root}", f"run={tmp_path / 'flat'}"]) == 2
    assert f"{shards.root} holds volumes, and this training reads images" in caplog.text
    assert "; on volumes: preset=volumes_small, or init=" in caplog.text
    words = ["init=random", "task=masks", "preset=volumes_small", "data.test_split=val", "validate.volumes=2"]
    words += ["validate.every=1", "views.foreground=0.5", f"data.shards={shards.root}", f"run={tmp_path / 'small'}"]
    assert [main([*words, f"steps={steps}"]) for steps in (2, 4)] == [0, 0]
    assert (
        "validation sees 2 whole volumes through 6 windows of 16 x 32 x 32 (validate.every=1)"
        in (tmp_path / "small" / "log.txt").read_text()
    )
    small = RunReader(tmp_path / "small").description
    assert (small.network.name, small.input.size, small.best) == ("unet3d", (16, 32, 32), "volume_dice_average")
    of_val = rows(tmp_path / "small", "val")
    assert len(of_val) == 4 and all({"volume_dice", "volume_dice_average", "loss"} <= row.keys() for row in of_val)
    assert RunReader(tmp_path / "small").load("finetune")[1]["average"] == of_val[0]["volume_dice_average"]
    words = ["data.size=[8,8,8]", "data.batch=4", "data.test_split=val", "validate.volumes=2"]
    assert main([*TINY_VOLUMES, *words, f"data.shards={shards.root}", f"run={tmp_path / 'no'}"]) == 2
    assert "validate.volumes=2: it is of masks of volumes, on data.val_split; use null" in caplog.text


def assert_case_is_monais(
    run: Path, shards: ShardedDataset, window: tuple[float, float], spacing: tuple[float, ...]
) -> None:
    """The Dice and distance in mm of one volume, from MONAI's windows and metrics called plainly."""
    from monai.inferers import sliding_window_inference
    from monai.metrics import compute_dice, compute_hausdorff_distance

    reader = RunReader(run)
    tensors, described = reader.load(None)[0], reader.description
    network = trained_network(described, trained_encoder(described, tensors), tensors)
    row = next(row for row in shards.rows("val").tolist() if shards.has_mask(row))
    voxels, (low, high) = shards.voxels(row), window
    sides = voxels.shape
    size = [round(side * stored / mm) for side, stored, mm in zip(sides, (2.0, 1.0, 1.0), spacing, strict=True)]
    seen = np.rint(plain_view(voxels, (0, 0, 0, *sides), (False,) * 3, size))
    image = torch.from_numpy(np.clip((np.float32(seen) - low) / (high - low), 0, 1))[None, None]
    with torch.no_grad():
        scores = sliding_window_inference(image, (16, 16, 12), 4, lambda x: network(x).sigmoid(), 0.5, "gaussian")
        scores = torch.nn.functional.interpolate(scores, sides, mode="trilinear")
    true = torch.from_numpy(np.float32(voxels > 0))[None, None]
    pair = (scores > 0.5).float(), true
    case = next(case for case in read_cases(run / "cases" / "test.parquet") if case.key == shards.cell("key", row))
    assert isinstance(case, MaskCase) and case.unit == "mm" and case.predicted == int(pair[0].sum())
    assert case.dice == pytest.approx(float(compute_dice(*pair, ignore_empty=False)))
    if case.predicted:
        hd95 = float(compute_hausdorff_distance(*pair, True, percentile=95, spacing=[2.0, 1.0, 1.0]))
        assert case.hd95 == pytest.approx(hd95)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["task=labels", "task.labels=[brigth]"], "labels of {}, which has no label 'brigth', but bright, coin; did"),
        (["task=labels", "task.scored=[coyn]"], "task.scored: no label 'coyn' is learned, but bright, coin; did you"),
        (["task=labels", "task.scored=[coin]", "task.exclusive=true"], "task.scored=[coin]: expected null: the"),
        (["task=labels", "task.labels=[]"], "task.labels=[]: expected at least one label, or null"),
        (["task=labels", "task.uncertain=one"], "task.uncertain=one: expected ones, zeros, ignore, lsr_ones; did you"),
        (["task=labels", "task.uncertain={coyn: ones}"], "task.uncertain.coyn: expected one of bright, coin; did you"),
        (["task=labels", "task.exclusive=true"], "11 of 24 samples have none or several of the labels bright, coin"),
        (["task=chexpert"], "task.labels: expected labels of {}, which has no label 'No Finding', but bright, coin"),
        (["task=jsrt"], "have no pixel of 'clavicles': leave it out"),
        (["task=masks"], "masks of {}, split 'train' (24 were looked at), have the values 1, 2 beside 0, and a binary"),
        (["task=masks", "task.classes={disc: 1}"], "also have the value 2: name its class"),
        (["task=masks", "task.classes={a: 1, b: 2, c: 3}"], "have no pixel of 'c': leave it out"),
        (["task=masks", "task.classes={a: 1, b: 1}"], "give each class a value of its own from 1 to 255"),
        (["task=masks", CLASSES, "evaluate.crops=ten_crops"], "masks are judged on one crop; use centre"),
        (["task=masks", CLASSES, "evaluate.share=0.8"], "masks are judged on the whole image; use 1"),
        (["task=masks", CLASSES, "evaluate.temperature=true"], "temperature scaling is of labels; use false"),
        (["task=labels", "evaluate.window=sliding"], "evaluate.window=sliding: windows are of masks; use null"),
        (["task=labels", CALIBRATED, "data.val_split=null"], "fitted on the validation split, and data.val_split=null"),
        (["task=labels", "data.test_split=tset"], "data.test_split=tset: {} has train, val, test; did you mean 'test'"),
        (["task=labels", "init=nowhere"], "init=nowhere: no such file"),
        (["task=labels", "views.count=2"], "views.count=2: fine-tuning has one view of each image"),
        (["task=labels", "views=tune_volumes", "data.size=[16,16,16]"], "images, and this training reads volumes"),
    ],
)
def test_what_cannot_be_learned_is_one_error_before_training(
    words: list[str],
    printed: str,
    discs: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune(tmp_path / "run", discs, *words) == 2
    assert printed.format(discs) in caplog.text + capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_validation_without_an_auroc_is_refused_and_such_a_test_is_reported(  # type: ignore[no-untyped-def]
    make_dataset, tmp_path, caplog, capsys
) -> None:
    """Unless the loss decides; the test split's, before the training and after."""
    images, splits = [np.full((40, 40), i, np.uint8) for i in range(8)], ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    labels = [[[float(i % 2 and i != odd)] for i in range(8)] for odd in (5, 7)]
    val, test = (make_dataset(images, name=f"d{n}", labels=of, splits=splits).root for n, of in enumerate(labels))
    words = "task=labels", "data.batch=2", "stages.finetune.epochs=1"
    assert finetune(tmp_path / "run", val, *words) == 2
    assert "data.val_split=val: no label has a positive and a negative among its 2 samples" in caplog.text
    assert finetune(tmp_path / "run", val, *words, "validate.best=loss") == 0
    assert "auroc" not in rows(tmp_path / "run", "val")[0]
    caplog.clear(), capsys.readouterr()
    assert finetune(tmp_path / "test", test, *words) == 0
    reported = caplog.text + capsys.readouterr().out
    assert "data.test_split=test: no label has a positive and a negative among its 2 samples" in reported
    assert ": no figure over all labels (results.json)" in reported


@pytest.mark.system
def test_images_of_four_channels_need_a_first_layer_of_four(make_dataset, tmp_path, caplog) -> None:  # type: ignore[no-untyped-def]
    generator = np.random.default_rng(0)
    images, splits = [generator.integers(0, 255, (40, 40, 4), np.uint8) for _ in range(6)], ["train"] * 4 + ["val"] * 2
    masks = [(image[..., 3] > 128).astype(np.uint8) for image in images]
    shards, first = make_dataset(images, splits=splits, masks=masks).root, tmp_path / "three"
    words = ["task=masks", "data.batch=2", "data.test_split=null", "stages.finetune.epochs=1"]
    assert finetune(first, shards, *words) == 2
    assert f"channels=3: {shards} has images of 4 channels, and test_resnet takes 3, or grey" in caplog.text
    assert finetune(tmp_path / "four", shards, *words, "channels=4") == 0
    described = RunReader(tmp_path / "four").description.network
    assert described.channels == 4


def test_a_dataset_without_labels_or_masks_is_refused(make_dataset, tmp_path, caplog) -> None:  # type: ignore[no-untyped-def]
    images = [np.full((40, 40), i, np.uint8) for i in range(6)]
    splits = ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    shards = make_dataset(images, label_names=(), splits=splits).root
    for task, printed in (("labels", f"{shards} has no labels: "), ("masks", "no sample in split 'train' has a mask")):
        assert finetune(tmp_path / "run", shards, f"task={task}", "data.batch=2") == 2
        assert printed in caplog.text


def test_masks_are_asked_for_in_what_is_trained_on_and_in_each_split(make_dataset) -> None:  # type: ignore[no-untyped-def]
    """Two of 16 images have a mask, or four; of several datasets one has a class."""
    images, splits = [np.full((40, 40), i, np.uint8) for i in range(24)], ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    empty = np.zeros((40, 40), np.uint8)
    low, both = np.tri(40, dtype=np.uint8), 1 + np.tri(40, dtype=np.uint8)

    def dataset(name: str, trained: list[np.ndarray], val: np.ndarray, test: np.ndarray) -> Path:
        masks = [*trained, *[None] * (16 - len(trained)), *[val] * 4, *[test] * 4]
        return Path(make_dataset(images, name=name, label_names=(), splits=splits, masks=masks).root)

    config = compose("finetune", ["init=random", *TINY, "data.shards=any", "data.batch=2"])
    keys: Any = OmegaConf.to_object(config.data)

    def check(shards: list[Path], classes: dict[str, int] | None, **chosen: float) -> None:
        data = replace(keys, shards=[*map(str, shards)], **chosen)
        check_masks(Inputs(data, views_of(config), 0, 0, 1, masks=True), classes)

    few, binary = dataset("few", [low, both], both, both), dataset("binary", [low] * 2, low, low)
    val, test = dataset("in_val", [both] * 4, low, both), dataset("in_test", [both] * 4, both, low)
    blank, blank_test = dataset("blank", [empty] * 4, low, low), dataset("blank_test", [low] * 4, low, empty)
    classes = {"low": 1, "high": 2}
    requested = "(4 were looked at),"
    cases: list[tuple[Path, dict[str, int] | None, dict[str, float], str]] = [
        (binary, None, {"fraction": 0.1}, f"{binary}, split 'train' at data.fraction=0.1: none of 2 images has a "
         "mask: use a larger data.fraction"),
        (val, classes, {}, f"masks of {val}, split 'val' {requested} have no pixel of 'high': leave it out, or use"),
        (test, classes, {}, f"masks of {test}, split 'test' {requested} have no pixel of 'high': leave it out, or use"),
        (blank, None, {}, f"masks of {blank}, split 'train' {requested} are all empty: use another split"),
    ]  # fmt: skip
    for shards, of, chosen, printed in cases:
        with pytest.raises(UserError, match=re.escape(printed)):
            check([shards], of, **chosen)
    check([few, binary], classes)
    check([blank_test], None)  # nobody has it: judged, too
