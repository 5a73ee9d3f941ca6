"""What pretraining learns from phantom radiographs with small findings: bases alone and under DiRA, over seeds.

    python benchmarks/learning.py --out out/learning [--recipes small small_simsiam] [--seeds 0 1 2] [--images 64000]

The budget is the same for all: every run sees --images training images (a pair of views each), whatever its steps cost.
An arm divides them among the stages: `alone` is the base's own loss throughout, `dira` adds restoration and then the
adversary. Each run is a `pretrain` command on --threads threads, --jobs of them at once; the probe then compares the
last checkpoints of all runs with random encoders and raw pixels. The same command resumes after an interruption and
does not repeat finished runs; more --seeds or --recipes add to the table.

OUT/learning.json, .md and .png hold the table (mean ± sd over seeds) and its figure, OUT/probe/ every label's figures.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib.pyplot as plt

from dira_scale.data.manifest import ShardedDataset
from dira_scale.metrics.figure import MEAN
from dira_scale.runs.environment import environment

# Fractions of the images by stage: di, dir, dira.
ARMS = {"alone": (1.0, 0.0, 0.0), "dir": (0.4, 0.6, 0.0), "dira": (0.4, 0.4, 0.2)}
TRIVIAL = ("distorted", "blur", "telea")  # baselines that learn nothing
FRACTIONS = (1.0, 0.1)


@dataclass(frozen=True)
class StudyRun:
    recipe: str
    arm: str
    seed: int
    root: Path

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.arm}"

    @property
    def run(self) -> Path:
        return self.root / "runs" / f"{self.name}-s{self.seed}"

    def done(self) -> bool:
        status = self.run / "status.json"
        return status.exists() and json.loads(status.read_text())["state"] == "done"


def environ(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


def make_shards(out: Path, patients: int) -> Path:
    shards = out / "shards"
    command = ["shard", "recipe=phantom_small", f"+recipe.folder={out / 'dicom'}", f"recipe.patients={patients}"]
    verb([*command, f"out={shards}"], out / "shard.log", threads=1)
    return shards


def verb(arguments: Sequence[str], log: Path, threads: int) -> float:
    """Run a verb, its output to ``log``; the seconds it took. Ends the study with the log's last lines if it fails."""
    began = perf_counter()
    command = [sys.executable, "-m", f"dira_scale.{arguments[0]}", *arguments[1:]]
    with log.open("a") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environ(threads)).returncode
    if code:
        raise SystemExit(f"{' '.join(command)}: exit code {code}\n" + "\n".join(log.read_text().splitlines()[-8:]))
    return perf_counter() - began


def pretrain(case: StudyRun, shards: Path, images: int, threads: int, extra: Sequence[str]) -> None:
    if case.done():
        print(f"{case.run.name}: done before", flush=True)
        return
    case.run.parent.mkdir(parents=True, exist_ok=True)
    epochs = images / len(ShardedDataset.open(shards).rows("train"))
    stages = [f"stages.{s}.epochs={epochs * x}" for s, x in zip(("di", "dir", "dira"), ARMS[case.arm], strict=True)]
    keys = [f"experiment={case.recipe}", f"seed={case.seed}", f"data.shards={shards}", f"run={case.run}", *stages]
    keys += [f"parallel.threads={threads}", "data.workers=1", "validate.every=4", "checkpoint.every=500"]
    seconds = verb(["pretrain", *keys, *extra], case.run.with_suffix(".log"), threads)
    print(f"{case.run.name}: {seconds:.0f} s", flush=True)


def collect(case: StudyRun) -> dict[str, float]:
    """Held-out top-1 and chance, restoration errors, and training images a second, of a finished run."""
    rows = [json.loads(line) for line in (case.run / "metrics.jsonl").read_text().splitlines()]
    held_out, speeds = [r for r in rows if r["split"] == "val"], [r["images_per_second"] for r in rows if "lr" in r]
    result = {"top1": held_out[-1]["top1"], "chance": held_out[-1]["chance"]}
    result["images_per_second"] = statistics.harmonic_mean(speeds)
    restored = case.run / "pictures" / "restoration.json"
    last = json.loads(restored.read_text()) if restored.exists() else []
    return result | {f"mse_{row['restorer']}": row["mse"] for row in last if row["stage"] == held_out[-1]["stage"]}


def spread(values: Sequence[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values), "values": list(values)}


def arm_row(name: str, cases: Sequence[StudyRun]) -> dict[str, Any]:
    result = [collect(case) for case in cases]
    row: dict[str, Any] = {"encoder": name, "seeds": [case.seed for case in cases]}
    return row | {key: spread([each[key] for each in result]) for key in result[0]}


def probed(out: Path, seeds: int) -> dict[str, dict[str, Any]]:
    """Mean AUC by arm (or baseline), then by probe and fraction."""
    content = json.loads((out / "probe" / "probe.json").read_text())
    arms = {}
    for row in content["compared"]:
        arms[row["encoder"]] = row["encoder"]
        if row["kind"] == "run":
            arms[row["encoder"]] = name = Path(row["members"][0]["run"]).name.rpartition("-s")[0]
            if len(row["members"]) < seeds:
                raise SystemExit(
                    f"the runs {name} differ in more than their seed (compare their config.yaml below OUT/runs): "
                    "remove those that are out of date, and start again"
                )
    table: dict[str, dict[str, Any]] = {}
    for figure in content["figures"]:
        if figure["label"] == MEAN:
            key = f"{figure['probe']}@{100 * figure['fraction']:g}"
            table.setdefault(arms[figure["encoder"]], {})[key] = {"mean": figure["auc"], "sd": figure["sd"]}
    return table


def cell(value: dict[str, Any] | None, factor: float = 1.0, digits: int = 1) -> str:
    if value is None:
        return ""
    spread = "" if value["sd"] is None else f" ± {factor * value['sd']:.{digits}f}"
    return f"{factor * value['mean']:.{digits}f}{spread}"


def table(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> str:
    head = ["encoder", "seeds", "images/s", "top-1 %", "chance %", "MSE e-3", "input", "blur", "Telea"]
    lines = [[*head, *(f"{key} AUC" for key in keys)]]
    for row in rows:
        line = [row["encoder"], str(len(row.get("seeds", []))) if "seeds" in row else ""]
        line += [cell(row.get("images_per_second"), digits=0), cell(row.get("top1"), 100), cell(row.get("chance"), 100)]
        line += [cell(row.get(f"mse_{name}"), 1000, 2) for name in ("restored", *TRIVIAL)]
        lines.append([*line, *(cell(row.get(key)) for key in keys)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:]])


def draw(rows: Sequence[dict[str, Any]], keys: Sequence[str], path: Path) -> None:
    """AUC of every row by fraction with the spread over encoders; restoration beside what learns nothing."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for i, row in enumerate(rows):
        at = [x + 0.8 * i / len(rows) for x in range(len(keys))]
        left.bar(at, [row[k]["mean"] - 50 for k in keys], 0.8 / len(rows), bottom=50, label=row["encoder"],
                 yerr=[row[k]["sd"] or 0 for k in keys])  # fmt: skip
    left.set_xticks([x + 0.4 for x in range(len(keys))], keys)
    left.set_ylabel("mean AUC, %")
    left.legend(fontsize=7)
    restored = [row for row in rows if "mse_restored" in row]
    for i, name in enumerate((*TRIVIAL, "restored")):
        values = [row[f"mse_{name}"] for row in restored]
        right.bar([x + 0.2 * i for x in range(len(restored))], [v["mean"] for v in values], 0.2, label=name,
                  yerr=[v["sd"] or 0 for v in values])  # fmt: skip
    right.set_xticks([x + 0.3 for x in range(len(restored))], [row["encoder"] for row in restored], fontsize=7)
    right.set_ylabel("held-out MSE")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that the study makes")
    parser.add_argument("--shards", type=Path, help="a labelled dataset; default: phantoms made below OUT")
    parser.add_argument(
        "--patients", type=int, default=3300, help="of the phantoms: 1.9 images each, 65 %% to train on"
    )
    parser.add_argument("--recipes", nargs="+", default=["small", "small_simsiam"], help="configs/experiment")
    parser.add_argument("--arms", nargs="+", default=["alone", "dira"], choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=64000, help="training images that each run sees")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at once")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--random", type=int, default=5, help="random encoders in the probe")
    parser.add_argument("--probe-size", default="null", help="pixels of the probe's whole images; default: a view's")
    parser.add_argument("keys", nargs="*", help="KEY=VALUE for every pretraining run, such as data.size=32")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    shards = asked.shards or make_shards(asked.out, asked.patients)
    names = [(recipe, arm) for recipe in asked.recipes for arm in asked.arms]
    # A seed of all first.
    cases = [StudyRun(recipe, arm, seed, asked.out) for seed in asked.seeds for recipe, arm in names]
    with ThreadPoolExecutor(asked.jobs) as pool:
        list(pool.map(lambda case: pretrain(case, shards, asked.images, asked.threads, asked.keys), cases))

    runs = ",".join(str(case.run) for case in cases)
    probe = ["probe", f"run=[{runs}]", "stage=latest", f"data.shards={shards}", f"out={asked.out / 'probe'}"]
    probe += [f"fractions=[{','.join(map(str, FRACTIONS))}]", f"random_encoders={asked.random}"]
    probe += [f"data.size={asked.probe_size}"]
    verb(probe, asked.out / "probe.log", threads=asked.threads)
    auc = probed(asked.out, len(asked.seeds))
    rows = [arm_row(f"{r}-{a}", [c for c in cases if (c.recipe, c.arm) == (r, a)]) for r, a in names]
    by_name = {row["encoder"]: row for row in rows}
    rows = [by_name.get(name, {"encoder": name}) | figures for name, figures in auc.items()]
    keys = list(auc[rows[0]["encoder"]])
    text = table(rows, keys)
    print(f"\n{asked.images} images a run, {platform.machine()}\n{text}")
    about = {"images": asked.images, "keys": asked.keys, "environment": environment()}
    (asked.out / "learning.json").write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
    (asked.out / "learning.md").write_text(text + "\n")
    draw(rows, keys, asked.out / "learning.png")


if __name__ == "__main__":
    main()
