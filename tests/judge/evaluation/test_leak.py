"""Patients that figures are computed on and that were trained on: each verdict, on toy datasets and recorded runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from dataset.conftest import make_dataset
from finetune.conftest import TINY
from harness import rows
from omegaconf import OmegaConf
from recorded import record

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.finetune import main
from dira_scale.judge.evaluation.leak import NO_LEAK, UNKNOWN, Leak, Part, WeightsOrigin, check_leak, sources_of
from dira_scale.train.sampling import selected

__all__ = ["make_dataset"]
KEY = {"hash_key": "12345678", "archive": "ours"}
Make = Callable[..., ShardedDataset]


@pytest.fixture
def make(make_dataset: Make) -> Make:
    def make(name: str, recipe: dict[str, str] = KEY, **patients: Sequence[str]) -> ShardedDataset:
        """A dataset with the named patients in each split, an image each."""
        pairs = [(split, patient) for split, named in patients.items() for patient in named]
        splits, keys = zip(*pairs, strict=True)
        generator = np.random.default_rng(len(name))
        images = [generator.integers(0, 256, (40, 40)).astype(np.uint8) for _ in pairs]
        labels = [[float(number % 2)] for number in range(len(pairs))]
        return make_dataset(images, name=name, splits=splits, patients=keys, labels=labels, recipe=recipe)

    return make


def pretrained(run: Path, dataset: ShardedDataset, *words: str, first: Sequence[ShardedDataset] = ()) -> Path:
    """A run of ``pretrain`` on the datasets ``first`` and ``dataset`` records itself so."""
    datasets = [*first, dataset]
    shards = ",".join(str(each.root) for each in datasets)
    cfg = compose("pretrain", [f"data.shards=[{shards}]", f"run={run}", "data.batch=2", *words])
    content: Any = OmegaConf.to_container(cfg, resolve=True)
    chosen = selected(SimpleNamespace(**content["data"]), datasets, [1.0] * len(datasets))
    content |= {"datasets": [{"hash": each.hash, "weight": 1.0} for each in datasets]}
    content |= {"selection": chosen.identity} if chosen else {}
    run.mkdir()
    record(run, content)
    return run


def checked(dataset: ShardedDataset, start: object) -> Leak:
    judged = [Part.of(dataset, split) for split in ("val", "test")]
    return check_leak(judged, "test", [*sources_of(str(start), "init", [dataset])])


def test_training_splits_may_share_patients_and_a_test_split_may_not(make: Make, tmp_path: Path) -> None:
    """Also two runs back, and by a teacher. What the message says to type leaves nobody who is evaluated on."""
    ours = make("ours", train=["a", "b"], val=["c"], test=["d", "e", "f"])
    clean = pretrained(tmp_path / "clean", make("apart", train=["a", "b", "g"], val=["h"]))
    assert checked(ours, clean) == Leak(
        NO_LEAK,
        [f"patients: {NO_LEAK}: no patient of split val of ours or split test of ours was trained on by init={clean}"],
    )
    mixed = make("mixed", train=["a", "c", "d", "e", "g"], val=["h"])
    dirty = pretrained(tmp_path / "dirty", mixed)
    printed = (
        "1 of the 1 patients of split val of ours are in split train of mixed, which {0} trains on; 2 of the 3 "
        f"patients of split test of ours are in split train of mixed, which {{0}} trains on: figures would be too "
        f"good; train it again with data.exclude='{{{{{ours.root}: [val, test]}}}}'"
    )
    with pytest.raises(UserError) as refused:
        checked(ours, dirty)
    assert str(refused.value) == printed.format(f"init={dirty}")
    later = pretrained(tmp_path / "later", ours, f"model.weights={dirty}")
    with pytest.raises(UserError) as refused:
        checked(ours, later)
    assert str(refused.value) == printed.format(f"{dirty} (from which {later} was started)")
    taught = pretrained(tmp_path / "taught", ours, "method=distil", f"method.teachers=[{dirty}]")
    with pytest.raises(UserError) as refused:
        checked(ours, taught)
    assert str(refused.value) == printed.format(f"{taught}: method.teachers.0={dirty}")
    requested = str(refused.value).rpartition("data.exclude=")[2].strip("'")
    assert checked(ours, pretrained(tmp_path / "again", mixed, f"data.exclude={requested}")).verdict == NO_LEAK


def test_only_patients_whose_images_were_trained_on_count(make: Make, tmp_path: Path) -> None:
    """The fraction from the start does not have the patients that are left for the end."""
    large = make("large", train=[f"p{number}" for number in range(10)], val=["v"])
    part = selected(compose("pretrain", [f"data.shards={large.root}", "data.fraction=0.5"]).data, [large], [1.0])
    assert part is not None
    left = sorted(
        {f"p{number}" for number in range(10)} - set(large.column("patient")[large.rows("train")][part.samples])
    )
    ours = make("ours", train=["a"], val=["b"], test=left)
    for name, first in (("start", ()), ("second", [make("small", train=["x", "y", "z"], val=["v"])])):
        assert checked(ours, pretrained(tmp_path / name, large, "data.fraction=0.5", first=first)).verdict == NO_LEAK
    end = pretrained(tmp_path / "end", large, "data.fraction=0.5", "data.fraction_from=end")
    with pytest.raises(UserError, match="5 of the 5 patients of split test of ours are in split train of large"):
        checked(ours, end)


def test_a_validation_split_that_overlaps_the_test_split_is_one_line(make: Make, tmp_path: Path) -> None:
    ours = make("ours", train=["a"], val=["c"], test=["d", "e"])
    run = pretrained(tmp_path / "run", make("other", train=["a"], val=["c", "e"]))
    verdict = checked(ours, run)
    assert verdict.verdict == NO_LEAK and verdict.lines[1:] == [
        f"patients: init={run} chose its checkpoint on 1 of the 2 patients of split test of ours, which are in split "
        "val of other; its gradients have not seen them"
    ]


def test_what_cannot_be_checked_says_why(make: Make, tmp_path: Path) -> None:
    ours = make("ours", train=["a"], val=["c"], test=["d"])
    foreign, gone = tmp_path / "weights.pth", make("gone", train=["x"], val=["y"])
    foreign.write_bytes(b"")
    without, listed = pretrained(tmp_path / "without", gone), tmp_path / "patients.txt"
    (gone.root / "dataset.json").unlink()
    listed.write_text("x\n")
    excluding = pretrained(tmp_path / "listed", make("more", train=["x", "z"], val=["y"]), f"data.exclude={listed}")
    listed.write_text("z\n")
    other_key = make("keyed", {**KEY, "hash_key": "87654321"}, train=["d"], val=["y"])
    for start, why in {
        foreign: "a file does not say on which patients its weights were trained",
        tmp_path / "nowhere": "it is no longer there",
        without: "its dataset gone is no longer where it was",
        excluding: "data.exclude names other patients today than when it was trained",
        pretrained(tmp_path / "keyed_run", other_key): "split train of keyed and ours: their patients were hashed with "
        "two keys",
    }.items():
        verdict = checked(ours, start)
        assert verdict.verdict == UNKNOWN, start
        assert [*verdict.lines] and verdict.lines[0].startswith(f"patients: {UNKNOWN}: init={start}: {why}")

    three = [WeightsOrigin(f"run={name}", unknown=["it is no longer there"]) for name in "abc"]
    judged = [Part.of(ours, "test")]
    assert check_leak(judged, "test", three).lines == [f"patients: {UNKNOWN}: run=a and 2 more: it is no longer there"]


def finetune(run: Path, shards: str, *words: str) -> int:
    return main([*TINY, "task=labels", "data.batch=2", f"data.shards={shards}", f"run={run}", *words])


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
def test_a_mixture_with_a_patient_in_two_splits_is_refused(make: Make, tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    one = make("one", train=["a", "b", "x"], val=["c", "d"], test=["e", "f"])
    two = make("two", train=["g", "h"], val=["i", "j"], test=["k", "x"])
    assert finetune(tmp_path / "run", f"[{one.root},{two.root}]") == 2
    assert "1 of the 2 patients of split test of two are in split train of one, which this run trains on" in caplog.text
    assert f"add data.exclude='{{{two.root}: [test]}}'" in caplog.text
    assert not (tmp_path / "run").exists()


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
def test_a_run_keeps_what_it_has_found(make: Make, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """In config.yaml, its first lines and results.json, also when the weights' run is gone."""
    ours = make("ours", train=["a", "b", "x", "y"], val=["c", "d"], test=["e", "f"])
    first, second = tmp_path / "first", tmp_path / "second"
    assert finetune(first, str(ours.root)) == 0
    words = [str(ours.root), f"init={first}"]
    assert finetune(second, *words, "steps=2") == 0
    recorded = yaml.safe_load((second / "config.yaml").read_text())["leak"]
    assert recorded["verdict"] == NO_LEAK and recorded["lines"][0] in (second / "log.txt").read_text()
    assert f"by this run or init={first}" in recorded["lines"][0]
    moved = json.loads((first / "description.json").read_text())
    moved["data"]["datasets"][0]["hash"] = "another"
    (first / "description.json").write_text(json.dumps(moved))
    assert finetune(second, *words) == 0 and len(rows(second)) == 4
    assert json.loads((second / "results.json").read_text())["leak"] == recorded
