"""The table of a sweep's runs of `evaluate`, of made-up cases."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from finetune.test_comparison import Runs, labelled

from dira_scale.judge.evaluation.comparison import compared_evaluations as compared


def evaluated(root: Path, tuned: Path, draw: int, first: str = "k") -> tuple[Path, float]:
    """What `evaluate` leaves of a fine-tuned run, and its mean AUROC. ``first``: the letter of all keys."""
    (out := root / f"{tuned.name}-{first}").mkdir()
    (out / "cases").mkdir()
    (out / "config.yaml").write_text(yaml.safe_dump({"run": str(tuned)}))
    return labelled(out, draw, first)


def test_runs_are_compared_on_the_data_that_they_were_evaluated_on(tmp_path: Path) -> None:
    made, values, runs = Runs(tmp_path), dict[tuple[str, str, int], float](), []
    for number in range(2):
        made.run(f"dira{number}", seed=number)
    for init in ("random", "dira0", "dira1"):
        start = init if init == "random" else str(tmp_path / init)
        for seed in range(2):
            tuned = made.run(f"{init}-{seed}", start, seed)
            for data in "kl":
                out, values[init, data, seed] = evaluated(tmp_path, tuned, len(values), data)
                phase = f"{tmp_path.parent.name}."
                runs.append(({f"{phase}init": start, f"{phase}seed": seed, "data.shards": data}, out))
    result = compared(runs)
    by_setting = {spread.setting: spread for spread in result.spreads}
    assert len(by_setting) == 4
    dira = by_setting["init=dira (2 runs) data.shards=k"]
    of_runs = [np.mean([values[init, "k", seed] for seed in range(2)]) for init in ("dira0", "dira1")]
    assert dira.metric == "AUROC mean" and dira.mean == pytest.approx(np.mean(of_runs))
    assert dira.interval is not None and dira.interval.value == pytest.approx(dira.mean)
    pairs = {frozenset((c.first, c.second)) for c in result.comparisons}
    assert pairs == {
        frozenset(f"init={init} data.shards={data}" for init in ("random", "dira (2 runs)")) for data in "kl"
    }
