"""What the runs of the study have found, as a table in the form of docs/evidence/learning.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from dira_scale.dataset.metrics.figure import MEAN
from dira_scale.train.runs.files import read_status

# Row -> the set that is probed, and its label.
PROBED = {
    "pneumonia": ("pediatric_pneumonia", "pneumonia"),
    "bacteria or virus": ("pediatric_pneumonia", "bacterial"),
    "tuberculosis": ("shenzhen", "tuberculosis"),
}
SHARES = 0.01, 0.1
PARTS = "encoder", "decoder"  # whose frozen maps show lungs
COLUMNS = {"pixels": "16 × 16 pixels", "random": "random", "moco": "MoCo-v2", "dira": "DiRA"}
PAIRS = ("moco", "random"), ("dira", "random"), ("dira", "moco")
Scores = Mapping[str, Mapping[str, Sequence[float]]]  # row -> column -> a figure of each network, in per cent


def ended(run: Path) -> bool:
    """Whether a run, or a probe, has come to its end."""
    return (run / "probe.json").exists() or read_status(run).get("state") == "done"


def scores(runs: Path) -> dict[str, dict[str, list[float]]]:
    """Of all that has ended. Of draws of labelled images, each network has their mean."""
    found: dict[str, dict[str, list[float]]] = {}
    for what, (recipe, label) in PROBED.items():
        probes = sorted(runs.glob(f"probe-{recipe}-*/probe.json"))  # the last is of most runs
        rows = json.loads(probes[-1].read_text())["figures"] if probes else []
        for share in SHARES:
            columns = found[f"{what}, {100 * share:g} % (AUROC, linear probe)"] = {}
            for row in rows:
                metric = row["metric"], row["label"], row["fraction"]
                if metric == ("AUROC", label, share) and all(row["values"]):
                    kind = row["encoder"].partition("-")[0] if row["kind"] == "run" else row["kind"]
                    columns[kind] = [100 * fmean(draws) for draws in row["values"]]
    for part in PARTS:
        columns = found[f"lungs, 10 images, frozen {part} (Dice)"] = {}
        for run in filter(ended, sorted(runs.glob(f"lungs-{part}-*"))):
            rows = json.loads((run / "results.json").read_text())["figures"]["test"]
            (dice,) = (row["value"] for row in rows if (row["metric"], row["name"]) == ("Dice", MEAN))
            columns.setdefault(run.name.split("-")[2], []).append(100 * dice)
    return found


def table(found: Scores) -> str:
    """Means ± standard deviations over networks, n; differences, with Welch's 95 % intervals."""
    head = [*COLUMNS.values(), *(f"{COLUMNS[a]} - {COLUMNS[b]}" for a, b in PAIRS)]
    lines = [f"| {' | '.join(['', *head])} |", "|---" * (1 + len(head)) + "|"]
    for name, columns in found.items():
        cells = [shown(columns.get(column, ())) for column in COLUMNS]
        cells += [difference(columns.get(a, ()), columns.get(b, ())) for a, b in PAIRS]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines) + "\n"


def shown(values: Sequence[float]) -> str:
    """Mean, deviation, n."""
    spread = f" ± {stdev(values):.1f} (n {len(values)})" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread}" if values else ""


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Of means, with its interval where both have a spread."""
    from scipy.stats import ttest_ind

    if not a or not b:
        return ""
    text = f"{fmean(a) - fmean(b):+.1f}"
    if min(len(a), len(b)) < 2 or not stdev(a) + stdev(b):
        return text
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return f"{text} [{low:.1f}, {high:.1f}]"
