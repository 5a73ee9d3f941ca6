"""A made-up sweep that is finished: fine-tuning from random weights and from two methods, and a probe."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from finetune.test_comparison import Runs, judged
from sweep.made_up_sweep import begin

from dira_scale.dataset.metrics.cases import LabelCase
from dira_scale.dataset.metrics.figure import Figure
from dira_scale.judge.pages.probe_figures import FORMAT, Features, Fit, as_json, figures
from dira_scale.sweep.records import Run, SweepFolder

FRACTIONS = (0.01, 0.1)
TABLES = [
    {
        "paper": "DiRA",
        "table": "Table 1",
        "tasks": {"tune": "ChestX-ray14"},
        "rows": {"moco": "MoCo-v2", "dira": "DiRA_MoCo-v2", "random": "Random"},
    }
]


def finished_sweep(root: Path, moco: int = 5, dira: int = 2) -> dict[tuple[str, float], list[float]]:
    """The mean AUROC of each run of phase ``tune`` by (start, fraction). ``moco``, ``dira``: pretraining runs."""
    folder, values, made = SweepFolder(root), dict[tuple[str, float], list[float]](), Runs(root)
    starts: dict[str, list[str]] = {"random": ["random"] * 5, "moco": [], "dira": []}
    for phase, count in (("moco", moco), ("dira", dira)):
        for seed in range(count):
            run = add(folder, phase, f"seed{seed}-{seed:07x}{len(phase)}", "pretrain", {f"{phase}.seed": seed})
            output = made.run(run.output, seed=seed, model={"width": phase})
            (output / "metrics.jsonl").touch()
            starts[phase].append(str(folder.output(run)))
    for start, weights in starts.items():
        for fraction in FRACTIONS:
            for number, init in enumerate(weights):
                seed = number if start == "random" else 0
                varied = {
                    "tune.init": "random" if start == "random" else f"{{{start}}}",
                    "tune.data.fraction": fraction,
                }
                run = add(folder, "tune", f"{start}-{fraction}-{number}-{number:07x}f", "finetune", varied)
                output = made.run(run.output, init, seed, data={"fraction": fraction})
                strength = {"random": 0.0, "moco": 0.25, "dira": 0.2}[start] + fraction
                values.setdefault((start, fraction), []).append(_judged(output, number, strength))
    probe = add(folder, "probe", "0123abcd", "probe", {})
    output = folder.output(probe)
    output.mkdir(parents=True)
    (output / "probe.json").write_text(json.dumps(probe_json(starts["moco"], starts["dira"])))
    (root / "sweep.yaml").write_text(yaml.safe_dump({"sweep": {"name": "made_up", "tables": TABLES}}))
    return values


def add(folder: SweepFolder, phase: str, name: str, command: str, varied: dict[str, Any]) -> Run:
    run = Run(phase, name, command, [], f"{phase}/{name}/output", varied=varied)
    folder.add(run)
    begin(folder, run.id, "1", exit_code=0)
    return run


def _judged(output: Path, draw: int, strength: float) -> float:
    rng = np.random.default_rng(draw)
    truth = np.arange(24) % 2
    scores = np.clip(rng.random((24, 2)) * (1 - strength) + strength * truth[:, None], 0, 1)
    cases = [
        LabelCase(f"k{i:02d}", f"p{i // 2}", "test", "ab"[j], float(truth[i]), float(scores[i, j]))
        for i in range(24) for j in range(2)
    ]  # fmt: skip
    pairs = [scores[truth == 1, j][:, None] > scores[truth == 0, j] for j in range(2)]
    value = float(np.mean([pair.mean() for pair in pairs]))
    judged(output, cases, {("AUROC", "mean"): value})
    (output / "environment.json").write_text(json.dumps({"commit": "c0ffee" * 6}))
    return value


def probe_json(
    moco: list[str], dira: list[str], others: Sequence[tuple[str, str]] = (), shift: float = 0.0
) -> dict[str, Any]:
    """AUROC of a label and as a mean; ``others``: metrics and labels with the label's values less ``shift``."""
    rng = np.random.default_rng(0)
    kinds = {"moco": ("run", moco, 0.9), "dira": ("run", dira, 0.88), "random": ("random", ["0"] * 5, 0.8),
             "pixels 16x16": ("pixels", ["0"], 0.82)}  # fmt: skip
    compared, rows = [], []
    for encoder, (kind, members, level) in kinds.items():
        described = [{"run": member} if kind == "run" else {"seed": 0} for member in members]
        source = Features(encoder, kind, "" if kind == "pixels" else "5", 8, described)
        compared.append(vars(source))
        fits: list[dict[tuple[str, float], list[Fit]]] = [{} for _ in members]
        for fraction, draws in ((1.0, 1), (0.1, 3)):
            for fit in fits:
                fit["linear", fraction] = []
                for mean, sick in level - 0.05 * (fraction < 1) + rng.normal(0, 0.01, (draws, 2)):
                    values = {("AUROC", "mean"): mean, ("AUROC", "sick"): sick} | dict.fromkeys(others, sick - shift)
                    made = [Figure(*key, float(value), 24, 0, 12, share=True) for key, value in values.items()]
                    fit["linear", fraction].append(Fit({figure.key: figure for figure in made}))
        rows += as_json(figures(source, fits, {1.0: 10.0, 0.1: 10.0}))
    return {"format": FORMAT, "commit": "beef" * 10, "config": {}, "compared": compared, "figures": rows}
