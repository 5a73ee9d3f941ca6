"""``python -m dira_scale.localize``: boxes of images and volumes, what it writes after a kill, and what it refuses."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dataset.conftest import make_dataset
from localize.made_up import NAMES, WORDS, sees_brightness, tuned
from omegaconf import OmegaConf
from PIL import Image
from recorded import derived
from system.faults import Job, killed_at
from toy_run import train
from train.data.volumes import make as make_volumes

from dira_scale import api
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.localize import main
from dira_scale.localize.cases import cases_of, check

__all__ = ["make_dataset"]
pytestmark = pytest.mark.usefixtures("libraries")
Make = Callable[..., ShardedDataset]


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Every run is the network that sees brightness, of this size."""

    def see(*size: int) -> None:
        monkeypatch.setattr(TrainedRun, "of", classmethod(lambda cls, folder: sees_brightness(*size)))

    return see


def box(label: str, *sides: float) -> dict[str, Any]:
    """``y``, ``x``, ``h``, ``w``, after ``z`` and before ``d`` of a volume as the manifest has them."""
    names = "yxhw" if len(sides) == 4 else "zyxdhw"
    return {"label": label, "z": 0.0, "d": 1.0} | dict(zip(names, sides, strict=True))


def boxed(make: Make, **keys: Any) -> ShardedDataset:
    """Images of 64 x 96 pixels with a bright rectangle that begins and ends where a pixel of a view of 32 does; the
    box of the first is the rectangle, of the second begins 20 columns later, of the third is elsewhere."""
    where = [(8, 12, 20, 30), (32, 30, 16, 60), (2, 3, 4, 6), (0, 0, 64, 48)]
    images = []
    for y, x, h, w in where:
        image = np.full((64, 96), 20, np.uint8)
        image[y : y + h, x : x + w] = 250
        images.append(image)
    boxes = [
        [box("bright", 8, 12, 20, 30), box("dark", 40, 60, 8, 8)],
        [box("bright", 32, 50, 16, 60)],
        [box("bright", 40, 60, 10, 10), box("lost", 1, 1, 2, 2)],
        [],
    ]
    return make(
        images, label_names=NAMES, labels=4 * [[1.0, 0.0]], splits=["train", *["test"] * 3], boxes=boxes, **keys
    )


def everything(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_boxes_of_images_are_compared_in_the_pixels_that_are_stored(
    make_dataset: Make, tmp_path: Path, seeing: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    seeing(32, 32)
    dataset, out = boxed(make_dataset), tmp_path / "out"
    words = [f"run={tmp_path}", f"data.shards={dataset.root}", f"out={out}", "pictures=1"]
    assert main([*words, "data.split=train"]) == 0
    output = capsys.readouterr().out
    assert "patients: not checkable" in output
    bright, dark = pq.read_table(out / "boxes.parquet").to_pylist()
    assert [bright[f"predicted_{side}"] for side in "yxhw"] == [bright[side] for side in "yxhw"] == [8, 12, 20, 30]
    assert (bright["iou"], bright["intensity"], bright["regions"]) == (1, 60, 2)
    assert (dark["iou"], dark["intensity"], dark["regions"], dark["predicted_y"]) == (0, None, 0, None)
    results = json.loads((out / "results.json").read_text())
    values = {figure["name"]: figure["value"] for figure in results["figures"]["test"]}
    assert (values["bright/0.6"], values["dark/0.1"], values["mean/0.6"]) == (1, 0, 0.5)
    assert (results["images"], results["boxes"], results["splits"]) == (1, 2, {"test": "train"})
    names = sorted(path.name for path in (out / "pictures").iterdir())
    assert names == ["bright-toy0.png", "dark-toy0.png"]
    assert main([*words, "data.split=train"]) == 0 and "is complete" in capsys.readouterr().out
    assert main(words) == 2 and "has results of another data" in capsys.readouterr().err
    (out / "results.json").write_text("{")
    assert main(words) == 2 and "results.json is damaged" in capsys.readouterr().err

    content = api.localize(tmp_path, tmp_path / "test", dataset.root, {"thresholds": [0.4, 0.5], "pictures": 0})
    rows = pq.read_table(tmp_path / "test" / "boxes.parquet").to_pylist()
    assert [row["iou"] for row in rows] == [40 / 80, 0] and not any((tmp_path / "test" / "pictures").iterdir())
    assert content["left_out"] == {"lost": 1} and [f["value"] for f in content["figures"]["test"][:2]] == [0.5, 0.5]


def test_boxes_of_volumes_are_where_the_middle_that_is_seen_is(tmp_path: Path, seeing: Callable[..., None]) -> None:
    seeing(8, 8, 8)
    volume = np.full((12, 16, 20), -1000, np.int16)  # the middle begins at 2, 4, 6
    volume[4:7, 6:10, 9:11] = 1000
    boxes = [box("bright", 4, 6, 9, 3, 4, 2), box("bright", 4, 6, 9, 3, 4, 4), box("bright", 0, 0, 0, 2, 2, 2)]
    dataset = make_volumes(tmp_path / "shards", [volume], test=1, boxes=[boxes])
    assert main([f"run={tmp_path}", f"data.shards={dataset.root}", f"out={tmp_path / 'out'}"]) == 0
    rows = pq.read_table(tmp_path / "out" / "boxes.parquet").to_pylist()
    assert [row["iou"] for row in rows] == [1, 1 / 2, 0]
    assert [rows[0][f"predicted_{side}"] for side in "zyxdhw"] == [4, 6, 9, 3, 4, 2]
    (picture,) = (tmp_path / "out" / "pictures").iterdir()
    colours = np.asarray(Image.open(picture)).reshape(-1, 3)
    assert (colours == (90, 220, 90)).all(1).any() and (colours == (80, 170, 255)).all(1).any()


def test_published_boxes_are_those_of_the_shrunken_image(tmp_path: Path) -> None:
    """ChestX-ray14's x, y, w, h of images of 96 x 80 that are stored at half of that."""
    from archive.sources.miniatures import chestxray14

    chestxray14(tmp_path / "cxr")
    keys = {"recipe.images": tmp_path / "cxr", "recipe.max_side": 48, "workers": 1, "recipe.burned_in": "keep"}
    dataset = api.shard(tmp_path / "out", "chestxray14", keys | {"recipe.min_side": 16})
    (case,) = cases_of(dataset, "test", dataset.info.label_names, None).images
    assert {label: boxes.tolist() for label, boxes in case.boxes.items()} == {
        "Infiltration": [[10.125, 5.25, 20, 15]], "Hernia": [[0, 0, 40.25, 32]],
    }  # fmt: skip


@pytest.mark.system
def test_a_killed_call_goes_on_to_the_same_files(make_dataset: Make, tmp_path: Path) -> None:
    dataset, run = boxed(make_dataset), tuned(tmp_path / "run", "task=labels")
    words = [f"run={run}", f"data.shards={dataset.root}", "pictures=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "dira_scale.localize", *words]
    assert main([*words, f"out={whole}"]) == 0
    inside, environment = killed_at([*command, f"out={killed}"], "os.rename:/bright-toy2.png:1")
    with Job(inside, killed, **environment) as job:
        assert job.end() == -signal.SIGKILL, job.printed
    assert (killed / "pictures" / "bright-toy1.png").is_file() and not (killed / "results.json").exists()
    assert any((killed / "pictures").glob(".*"))
    assert main([*words, f"out={killed}"]) == 0
    before, after = everything(whole), everything(killed)
    for name in ("config.yaml", "environment.json"):  # the folder's name, the command
        assert len(before.pop(name)) and len(after.pop(name))
    assert before == after and b'"no leak"' not in before["results.json"]


REFUSED: dict[str, tuple[list[str], list[list[dict[str, Any]]], str]] = {
    "no boxes at all": ([], [[], []], r"toy: it has no boxes, .*shard it with a file of boxes .*Masks are not taken"),
    "none in the split": ([], [[box("bright", 0, 0, 9, 9)], []], r"split 'test' has no boxes, but 'train' \(1\)"),
    "not learned": (["brihgt"], [[], []], r"labels: the run has not learned 'brihgt', but bright, dark; did you mean"),
    "no box of a label": (
        ["dark"], [[], [box("bright", 0, 0, 9, 9)]], r"has no box of dark, but of bright \(1\)",
    ),
    "other labels": (
        [], [[], 2 * [box("mass", 0, 0, 9, 9)]], r"boxes in split 'test' are of mass \(2\); the run has learned bright",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("labels", "boxes", "output"), REFUSED.values(), ids=REFUSED.keys())
def test_datasets_without_such_boxes(
    make_dataset: Make, labels: list[str], boxes: list[list[dict[str, Any]]], output: str
) -> None:
    image = np.zeros((16, 16), np.uint8)
    dataset = make_dataset([image, image], splits=["train", "test"], boxes=boxes, label_names=NAMES)
    with pytest.raises(UserError, match=output):
        cases_of(dataset, "test", NAMES, labels or None)
    with pytest.raises(UserError, match=r"data\.split=tset: .* has train, test"):
        cases_of(dataset, "tset", NAMES, None)


def test_runs_that_have_no_labels_are_refused_with_and_without_training(
    make_dataset: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = boxed(make_dataset)
    words = [f"data.shards={dataset.root}", f"out={tmp_path / 'out'}"]
    pretrained = train(tmp_path / "pretrained", seed=0)
    for run, wrong, output in (
        (tmp_path / "nowhere", [], "is not a folder: name a fine-tuned run, or its export"),
        (pretrained, [], "is of pretrain: fine-tune it first (docs/how-to/finetune.md)"),
        (
            tuned(tmp_path / "run", "task=labels"),
            ["labels=[bright,bright]"],
            "labels=[bright, bright]: expected at least one value, and none twice",
        ),
        (
            tuned(tmp_path / "leaks", "task=labels", "data.split=test", "data.val_split=train", hash=dataset.hash),
            [],
            "figures would be too good",
        ),
        (tmp_path / "run", ["labels=[brigth]"], "labels: the run has not learned 'brigth', but bright, dark"),
    ):
        assert main([*words, f"run={run}", *wrong]) == 2
        assert output in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    config = (tmp_path / "run" / "config.yaml").read_bytes()
    assert main([*words, f"run={tmp_path / 'run'}", f"out={tmp_path / 'out' / '..' / 'run'}"]) == 2
    assert "holds files that this command has not written" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == config

    def planned(command: str, *keys: str) -> dict[str, Any]:
        composed = compose(command, [*WORDS, *["init=random"] * (command == "finetune"), *keys])
        return {"r1": derived(command, OmegaConf.to_container(composed))}

    cfg = compose("localize", ["run=r", "data.shards=d", "out=o", "labels=[Mass]"])
    check(cfg, planned("finetune", "task=chestxray14"))
    check(cfg, planned("finetune", "task=labels"))  # all of the dataset's
    for runs, output in (
        (planned("pretrain"), "run=r1 is of pretrain: fine-tune it first"),
        (planned("finetune", "task=masks"), "run=r1 was fine-tuned on masks"),
        (planned("finetune", "task=labels", "task.labels=[mass]"), "has not learned 'Mass', but mass"),
    ):
        with pytest.raises(UserError, match=output):
            check(cfg, runs)
