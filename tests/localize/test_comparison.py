"""The table of a sweep's runs of `localize`, of made-up boxes."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from finetune.test_comparison import Runs
from sweep.test_paper_sweeps import read

from dira_scale.localize.results import CONFIG, FILE, LocatedBox, compared, figures, localizing, write_boxes
from dira_scale.sweep.check import check_runs

THRESHOLDS = [0.3, 0.5]


def looked(root: Path, tuned: Path, draw: int) -> Path:
    """What `localize` leaves of a fine-tuned run: two labels, two boxes a patient."""
    (out := root / f"{tuned.name}-boxes").mkdir()
    ious = np.random.default_rng(draw).random(12)
    rows = [
        LocatedBox(f"k{i}", f"p{i // 2}", "ab"[i % 2], (0.0, 0, 1, 1), 0.5, 1, float(iou), 60.0, (0.0, 0, 1, 1))
        for i, iou in enumerate(ious)
    ]
    write_boxes(out / "boxes.parquet", rows)
    made = [figure.as_json() for figure in figures(rows, THRESHOLDS)]
    content = {"step": 1, "splits": {"test": "test"}, "figures": {"test": made}}
    (out / FILE).write_text(json.dumps(content))
    (out / CONFIG).write_text(yaml.safe_dump({"run": str(tuned)}))
    return out


def test_runs_are_compared_by_what_they_looked_at_and_started_from(tmp_path: Path) -> None:
    made, values, runs = Runs(tmp_path), dict[tuple[str, int], float](), []
    for number in range(2):
        made.run(f"dira{number}", seed=number)
    for init in ("random", "dira0", "dira1"):
        start = init if init == "random" else str(tmp_path / init)
        for seed in range(2):
            out = looked(tmp_path, made.run(f"{init}-{seed}", start, seed), len(values))
            ious = np.random.default_rng(len(values)).random(12)
            values[init, seed] = float(np.mean([(ious[i::2] >= 0.5).mean() for i in range(2)]))
            runs.append(({f"{tmp_path.parent.name}.init": start, "tune.seed": seed}, out))
    result = compared(runs)
    by_metric = {(spread.setting, spread.metric): spread for spread in result.spreads}
    assert len(by_metric) == 2 * 3 * 2  # settings; two labels and their mean; thresholds
    random, dira = (by_metric[f"init={name}", "accuracy mean/0.5"] for name in ("random", "dira (2 runs)"))
    of_runs = [np.mean([values[init, seed] for seed in range(2)]) for init in ("dira0", "dira1")]
    assert dira.mean == pytest.approx(np.mean(of_runs)) and dira.run_sd == pytest.approx(np.std(of_runs, ddof=1))
    assert (random.n, dira.n, dira.results, dira.patients) == (2, 2, 4, 6)
    assert dira.interval is not None and dira.interval.value == pytest.approx(dira.mean)
    assert by_metric["init=random", "accuracy a/0.5"].interval is None
    assert {c.metric for c in result.comparisons} == {"accuracy mean/0.3", "accuracy mean/0.5"}
    pairs, config, _ = localizing(runs[0][1])
    assert dict(pairs)["accuracy/mean/0.5"] == values["random", 0] and config["run"] == str(tmp_path / "random-0")


@pytest.mark.system
def test_the_papers_sweep_is_right() -> None:
    """Five networks of each pretraining are tuned twice, ten of random weights once; a dry run refuses none."""
    _, runs = read("dira_table5")
    starts = Counter(str(run.varied["tune.init"]) for run in runs if run.command == "finetune")
    assert len(starts) == 7 and {*starts.values()} == {10} and starts["random"]
    assert sum(run.command == "localize" for run in runs) == 70
    assert sum(run.command == "pretrain" for run in runs) == 30
    one_of_each = {(run.phase, str(run.varied.get(f"{run.phase}.init"))): run for run in runs}
    check_runs([*one_of_each.values()], runs)
