"""Parts and unions of datasets: which samples they have, and that each is still read from where it lies."""

import math
import shutil
import signal
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from archive import ingest
from harness import finish
from PIL import Image
from system.faults import Job, killed_at

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.subset import SubsetPart, subset
from dira_scale.shard.curate.verify import verify
from dira_scale.sweep.check import check_runs
from dira_scale.sweep.config import Phase, Sweep
from dira_scale.sweep.expand import expand
from dira_scale.sweep.job import command

PATIENTS, EACH = 24, 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made"), "whole", "p", ["Nodule", "Effusion"])


@pytest.fixture
def whole(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "whole"))


def make(tmp_path: Path, name: str, prefix: str, labels: list[str]) -> Path:
    """24 patients of 1 to 5 small images; patient n is in test where n % 6 == 0, else in train."""
    rng, rows = np.random.default_rng(len(name)), []
    (tmp_path / f"{name}_images").mkdir()
    for patient in range(PATIENTS):
        for number in range(1 + patient % 5):
            file = f"{name}{patient}_{number}.png"
            Image.fromarray(rng.integers(0, 255, (40, 36), np.uint8)).save(tmp_path / f"{name}_images" / file)
            rows.append(
                {"file": file, "patient": f"{prefix}{patient}", "split": "test" if patient % 6 == 0 else "train"}
            )
            rows[-1] |= {"view": "PA" if number % 2 else "AP"} | dict.fromkeys(labels, (patient + number) % 2)
    config = ingest.recipe(
        "folder", images=str(tmp_path / f"{name}_images"), labels=str(ingest.csv(tmp_path / f"{name}.csv", rows)),
        columns={"file": "file", "patient": "patient", "split": "split"}, label_columns=labels, attributes=["view"],
        shard_size=20,
    )  # fmt: skip
    convert(config | {"name": name, "secret": False}, tmp_path / name, workers=1)
    return tmp_path / name


def part(**keys) -> SubsetPart:
    return SubsetPart(
        **{"fraction": 1.0, "seed": 0, "splits": ("train",), "where": {}, "folds": None, "fold": 0} | keys
    )


def of(path: Path, split: str | None = None) -> dict[str, list[str]]:
    """Keys by patient."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in ShardedDataset.open(path).table.to_pylist():
        if split in (None, row["split"]):
            found[row["patient"]].append(row["key"])
    return found


def test_fractions_are_of_whole_patients_and_nested(whole: Path, tmp_path: Path) -> None:
    everybody, before = of(whole, "train"), set()
    samples = sum(map(len, everybody.values()))
    for fraction in (0.01, 0.1, 0.25, 0.5, 1.0):
        out = tmp_path / f"f{fraction}"
        subset(whole, out, part(fraction=fraction))
        here = of(out, "train")
        assert all(sorted(here[patient]) == sorted(everybody[patient]) for patient in here)  # nobody cut in two
        assert set(here) >= before and of(out, "test") == of(whole, "test")
        count = sum(map(len, here.values()))
        assert fraction * samples <= count < fraction * samples + 5  # a patient has 5 at most
        before = set(here)
    subset(whole, tmp_path / "other", part(fraction=0.5, seed=1))
    assert set(of(tmp_path / "other", "train")) != set(of(tmp_path / "f0.5", "train"))


def test_the_samples_of_a_subset_are_those_of_the_whole(whole: Path, tmp_path: Path) -> None:
    assert main(["subset", f"path={whole}", f"out={tmp_path / 'deep' / 'half'}", "fraction=0.5"]) == 0
    small, large = ShardedDataset.open(tmp_path / "deep" / "half"), ShardedDataset.open(whole)
    there = {key: number for number, key in enumerate(large.table["key"].to_pylist())}
    for number, key in enumerate(small.table["key"].to_pylist()):
        assert small.read(number) == large.read(there[key])
    assert sorted(path.name for path in small.root.iterdir()) == [
        "dataset.json",
        "manifest.index",
        "manifest.parquet",
        "quarantine.parquet",
    ]
    assert verify(small.root, 1) == [] and small.info.recipe["subset_of"] == large.hash
    shutil.move(tmp_path / "whole", tmp_path / "moved")
    with pytest.raises(UserError, match="is missing"):
        ShardedDataset.open(small.root)


def test_folds_share_nobody_and_together_are_everybody(whole: Path, tmp_path: Path) -> None:
    everybody, seen = set(of(whole, "train")), set()
    for fold in range(4):
        subset(whole, tmp_path / f"fold{fold}", part(folds=4, fold=fold))
        val, train = set(of(tmp_path / f"fold{fold}", "val")), set(of(tmp_path / f"fold{fold}", "train"))
        assert val | train == everybody and not val & train and not val & seen
        assert len(val) == len(everybody) // 4 and of(tmp_path / f"fold{fold}", "test") == of(whole, "test")
        seen |= val
    assert seen == everybody
    subset(whole, tmp_path / "others", part(splits=("test",), folds=2))
    assert set(of(tmp_path / "others")) == set(of(whole, "test"))  # nobody of the old train


def test_a_sweeps_phase_takes_a_part_and_does_so_again_after_a_kill(whole: Path, tmp_path: Path) -> None:
    fold = Phase(command="shard subset", set={"path": str(whole), "folds": 3}, grid={"fold": [0, 1]})
    _, run = runs = expand(Sweep(name="cross", phases={"fold": fold}), tmp_path / "cross", {})
    check_runs(runs)
    words = command(run, SimpleNamespace(cluster="slurm"))  # type: ignore[arg-type]
    assert words[1:4] == ["-m", "dira_scale.shard", "subset"]
    assert main(words[3:]) == 0
    output = tmp_path / "cross" / run.output
    (output / ".dira_scale-abc").mkdir()  # the folder of a killed call
    (output / "manifest.parquet").rename(output / ".dira_scale-abc" / "manifest.parquet")
    assert main(words[3:]) == 0
    again = subset(whole, tmp_path / "again", part(folds=3, fold=1))
    assert ShardedDataset.open(output).info.counts == again.counts
    assert not [*output.glob(".dira_scale-*")]
    with pytest.raises(UserError, match="is not empty"):
        subset(whole, output, part())


def test_filters_by_attribute_label_and_split(whole: Path, tmp_path: Path) -> None:
    rows = ShardedDataset.open(whole).table.to_pylist()
    wanted = [
        row["key"] for row in rows
        if dict(row["attributes"])["view"] == "PA" and row["labels"][0] == 1 and row["split"] == "train"
    ]  # fmt: skip
    assert (
        main(["subset", f"path={whole}", f"out={tmp_path / 'pa'}", "where={view: [PA], Nodule: 1, split: train}"]) == 0
    )
    assert ShardedDataset.open(tmp_path / "pa").table["key"].to_pylist() == wanted and wanted


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["where={Nodul: 1}"], "where.Nodul: no such attribute or label; did you mean 'Nodule'?"),
        (["where={view: [XX]}"], "no sample is left"),
        (["fraction=10%"], "fraction=10%: expected a number above 0 and at most 1"),
        (["folds=many"], "folds=many: expected a whole number of at least 2, or null"),
        (["where=PA"], "where=PA: expected attributes or labels"),
        (["splits=trian"], "no split 'trian'"),
        (["folds=40"], "folds=40: only 20 patients in train"),
        (["folds=4", "fold=4"], "fold=4: expected 0 to 3, as there are 4"),
    ],
)
def test_what_does_not_fit_is_one_line(
    whole: Path, tmp_path: Path, words: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["subset", f"path={whole}", f"out={tmp_path / 'x'}", *words]) == 2
    assert printed in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_merged_datasets_keep_their_labels_and_protect_the_test_split(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Patients p0, p6 … are in test of the first, and in the second p1, p7 … would be: there all are one number on."""
    other = make(tmp_path, "other", "p1", ["Effusion", "Mass"])  # p10 … p123: p10 to p19 are in both
    assert main(["merge", f"paths=[{whole},{other}]", f"out={tmp_path / 'both'}"]) == 0
    both, parents = ShardedDataset.open(tmp_path / "both"), [ShardedDataset.open(p) for p in (whole, other)]
    assert both.info.name == "merged"
    assert both.info.label_names == ["Nodule", "Effusion", "Mass"] and verify(both.root, 1) == []
    split_of = [{row["patient"]: row["split"] for row in parent.table.to_pylist()} for parent in parents]
    shared = split_of[0].keys() & split_of[1].keys()
    assert any(split_of[0][p] != split_of[1][p] for p in shared)
    expected = {}
    for parent, splits, twin in zip(parents, split_of, split_of[::-1], strict=True):
        for number, row in enumerate(parent.table.to_pylist()):
            if not (splits[row["patient"]] == "train" and twin.get(row["patient"]) == "test"):
                named = dict(zip(parent.info.label_names, row["labels"], strict=True))
                expected[row["key"]] = (row["split"], named, parent.read(number))
    rows = both.table.to_pylist()
    assert len(rows) == len(expected) < sum(parent.table.num_rows for parent in parents)
    for number, row in enumerate(rows):
        split, named, payload = expected[row["key"]]
        assert row["split"] == split and both.read(number) == payload
        for name, value in zip(both.info.label_names, row["labels"], strict=True):
            assert value == named[name] if name in named else math.isnan(value)
    left = sum(parent.table.num_rows for parent in parents) - len(rows)
    assert f"left out: {left} samples" in capsys.readouterr().out


@pytest.mark.system
@pytest.mark.parametrize("name", ["dataset.json", "manifest.parquet"])
def test_a_killed_subset_is_made_by_the_same_command(whole: Path, tmp_path: Path, name: str) -> None:
    words = [sys.executable, "-m", "dira_scale.shard", "subset", f"path={whole}", "fraction=0.5"]
    command, environment = killed_at([*words, f"out={tmp_path / 'out'}"], f"os.rename:/{name}:1")
    with Job(command, tmp_path / "out", **environment) as job:
        assert job.end() == -signal.SIGKILL, job.printed
    assert any((tmp_path / "out").glob(".dira_scale-*")) and not (tmp_path / "out" / "manifest.parquet").exists()
    for out in ("out", "unbroken"):
        finish([*words, f"out={tmp_path / out}"])
    made = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("out", "unbroken")]
    assert made[0] == made[1]


def test_a_dataset_is_not_merged_alone_or_with_itself(whole: Path, tmp_path: Path) -> None:
    for paths, words in (([whole], "give at least two datasets"), ([whole, whole], "samples are in more than one of")):
        with pytest.raises(UserError, match=words):
            merge(paths, tmp_path / "x", "x")
