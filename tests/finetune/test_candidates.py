"""Candidates for lesions, from the layout of their archive by its recipe to figures: AUROC, CPM and sensitivities."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from archive.ingest import HASH_KEY, recipe
from archive.sources import miniatures_3d
from harness import rows
from omegaconf import OmegaConf
from torch import Tensor

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.cases import IRRELEVANT, CandidateCase, LabelCase, image_cases, read_cases
from dira_scale.dataset.metrics.froc import candidates
from dira_scale.evaluate import main as evaluate
from dira_scale.finetune import main
from dira_scale.finetune.task import Finetuning
from dira_scale.judge.tasks.labels import Classification
from dira_scale.judge.tasks.task import task_of
from dira_scale.shard.convert import convert
from dira_scale.train.data.batch import Batch

SMALL = [
    "data.size=[16,16,16]", "data.batch=6", "data.workers=1", "model.width=0.125", "parallel.threads=1",
    "validate.batch=8", "log_every=1",
]  # fmt: skip
NOT_SQUARE = ["views.turns=0", "views.transpose=0"]  # voxels of a scan of LUNA16's miniature, unlike the archive's
KEYS: dict[str, dict[str, Any]] = {
    "luna16": {"patch": [16, 16, 16], "negatives": None},
    "pe_cad": {"attributes": ["lesion", "lesions"]},
}


def sharded(task: str, root: Path) -> Path:
    """The miniature of the task's archive, sharded by its recipe."""
    name = "luna16_candidates" if task == "luna16" else task
    getattr(miniatures_3d, name)(root / "source")
    keys = {"labels": str(root / "source" / "candidates.csv")} if task == "pe_cad" else {}
    convert(recipe(name, images=str(root / "source"), **keys, **KEYS[task]), root / "shards", 1)
    return root / "shards"


def figures(folder: Path) -> dict[str, dict[str, Any]]:
    """The label's on the test split, by metric."""
    content = json.loads((folder / "results.json").read_text())["figures"]["test"]
    return {row["metric"]: row for row in content if row["name"] != "mean"}


@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(
    ("task", "preset"),
    [
        ("luna16", "dira3d"),
        pytest.param("luna16", "pcrl3d", marks=pytest.mark.torture),
        pytest.param("pe_cad", "dira3d", marks=pytest.mark.system),
    ],
)
def test_two_epochs_of_a_protocol(
    task: str, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """One scan of the test split has two nodules, the second without a candidate; PE-CAD's two have two emboli each."""
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", HASH_KEY)
    shards, run, out = sharded(task, tmp_path), tmp_path / "run", tmp_path / "evaluated"
    words = ["init=random", f"task={task}", f"preset={preset}", f"data.shards={shards}", f"run={run}"]
    whole = compose("finetune", words)
    small = [*SMALL, *NOT_SQUARE * (task == "luna16")]
    assert main([*words, *small, f"epoch_factor={2 / whole.stages.finetune.epochs}"]) == 0
    assert [row["epoch"] for row in rows(run, "val")] == [1, 2]
    assert ("negatives are too few for two epochs" in capsys.readouterr().out) == (task == "luna16")
    cases, scans = read_cases(run / "cases" / "test.parquet", LabelCase), 1 if task == "luna16" else 2
    assert all(type(case) is CandidateCase and case.lesions == 2 for case in cases)
    lesions = Counter(case.lesion for case in cases)
    assert lesions == ({"1": 2, IRRELEVANT: 1, "": 6} if task == "luna16" else {"1": 4, "": 8})
    assert {case.target for case in cases if case.lesion == "1"} == {1} and len({c.scan for c in cases}) == scans
    found = figures(run)
    assert found["AUROC"]["value"] is not None and found["sensitivity at 8 FP/scan"]["value"] == 0.5
    assert (found["CPM"]["n"], found["CPM"]["positives"]) == (scans, 2 * scans)
    assert found["CPM"]["value"] == pytest.approx(candidates(cases)[0].value)
    assert evaluate([f"run={run}", f"data.shards={shards}", f"out={out}"]) == 0
    again = {metric: row["value"] for metric, row in figures(out).items()}
    assert again == {metric: pytest.approx(row["value"]) for metric, row in found.items()}
    assert f"CPM {again['CPM']:.3f}" in (out / "report.html").read_text()


@pytest.mark.usefixtures("libraries")
def test_negatives_go_on_where_a_run_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four positives and four of eight negatives an epoch, in two steps; stopped in the middle of the second epoch."""
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", HASH_KEY)
    words = [
        "init=random",
        "task=pe_cad",
        "preset=dira3d",
        f"data.shards={sharded('pe_cad', tmp_path)}",
        *SMALL,
        "data.batch=4",
    ]
    words += ["data.negatives=1", "data.size=[8,8,8]", "validate.norm_passes=0", "epoch_factor=0.0003"]  # 3 epochs
    seen, shown = list[list[tuple[int, float]]](), Finetuning.seen  # of each step, numbers and labels

    def recorded(self: Finetuning, batch: Batch) -> tuple[Tensor, Tensor]:
        image, targets = shown(self, batch)
        seen.append([*zip(batch.index.tolist(), targets.flatten().tolist(), strict=True)])
        return image, targets

    monkeypatch.setattr(Finetuning, "seen", recorded)
    for folder, stops in (("whole", [None]), ("stopped", [3, None])):
        for stop in stops:
            assert main([*words, f"run={tmp_path / folder}", *[f"steps={stop}"] * (stop is not None)]) == 0
    whole, stopped = (
        {row["step"]: row["loss"] for row in rows(tmp_path / folder, "train")} for folder in ("whole", "stopped")
    )
    assert [*whole] == [1, 2, 3, 4, 5, 6] and stopped == whole
    assert len(seen) == 12 and seen[6:] == seen[:6]
    epochs = [{pair for step in seen[first : first + 2] for pair in step} for first in (0, 2, 4)]
    positives, negatives = ([{n for n, label in epoch if label == kind} for epoch in epochs] for kind in (1, 0))
    assert len(positives[0]) == 4 and positives == [positives[0]] * 3
    assert [*map(len, negatives)] == [4, 4, 4] and not negatives[0] & negatives[1]


def test_where_a_dataset_knows_no_lesions_there_is_no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two datasets at once: the second's candidates would all be false positives."""
    keys, patients, known = ["a:1", "a:2", "b:1"], ["p", "p", "q"], {"lesion": ["1", "", ""]}
    scored = image_cases(LabelCase, keys, patients, "test", ["nodule"], np.ones((3, 1)), np.full((3, 1), 0.5))
    monkeypatch.setattr(Classification, "cases", lambda *_: scored)
    node: Any = OmegaConf.to_container(compose("finetune", ["init=random", "task=luna16", "data.shards=none"]).task)
    task = task_of(node).described({})
    for lesions, curve in ((["1", "1", "0"], True), (["1", "1", ""], False)):
        about = SimpleNamespace(keys=keys, scans=patients, attributes=(known | {"lesions": lesions}).get)
        found = task.cases(SimpleNamespace(about=about))  # type: ignore[arg-type]
        assert bool(candidates(found)) == curve


@pytest.mark.parametrize(
    ("keys", "printed"),
    [
        ({"labels": ["a", "b"]}, "task.labels: candidates have one label of yes and no, not a, b: name it, or use"),
        ({"labels": ["a"], "exclusive": True}, "task.exclusive=true: .* of yes and no: use false, or task=labels"),
    ],
)
def test_candidates_have_one_label_of_yes_and_no(keys: dict[str, Any], printed: str) -> None:
    node: Any = OmegaConf.to_container(compose("finetune", ["init=random", "task=pe_cad", "data.shards=none"]).task)
    with pytest.raises(UserError, match=printed):
        task_of(node | keys).described({})
