"""Images/s of `embed`, compared with a bare forward pass over batches on the device, and with its loader alone.

    python -m dira_scale.bench embed [--cases resnet18-224 resnet50-224] [--shards FOLDER] [--rounds 5] [--json FILE]

Ours is what the command does after it has opened dataset and weights: it reads, checks, decodes, resizes, computes,
pools and writes Parquet. The bare pass is the same encoder in the same precision, an average over space, nothing else;
its features must be those that were written. All take turns in one process.

Ratio 1 means that nothing is lost to the slower of the two. It is one of medians over rounds; in brackets the lowest
and highest of a round. On a CPU, time is CPU time of this process, so all of the loader's work counts against ours; on
a GPU it is wall time, in which the loader can be hidden. Without --shards it generates phantom radiographs.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.backends import make_shards
from benchmarks.step import clock
from dira_scale.base.config.compose import compose
from dira_scale.base.storage.atomic import write_json
from dira_scale.embed.compute import EmbeddingJob
from dira_scale.judge.evaluation.embeddings import Embeddings
from dira_scale.judge.evaluation.features import Images
from dira_scale.judge.evaluation.rounds import connect
from dira_scale.train.data.batch import CHANNELS_LAST
from dira_scale.train.models.network import moved
from dira_scale.train.runs.environment import environment

GOAL = 0.9
ORDER = ("ours", "bare", "loader")
CASES = ("resnet18-224", "resnet50-224")
CORES = len(os.sched_getaffinity(0))
CPU = ("threads=1", "data.workers=1", "batch=16")
GPU = (f"data.workers={CORES}", "batch=256", "precision=bf16")


def measure(case: str, shards: Path, rounds: int, keys: Sequence[str]) -> dict[str, Any]:
    """One case, ENCODER-SIZE, in ``rounds`` of a turn each after one to warm up."""
    encoder, _, size = case.rpartition("-")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        words = ["init=random", f"model.encoder={encoder}", f"data.size={size}", f"data.shards={shards}"]
        cfg = compose("embed", [*words, f"out={folder}/out", *keys])
        world = connect(cfg.threads, cfg.timeout, cfg.precision)
        job = EmbeddingJob(cfg, world)
        images = Images(job.dataset, job.rows, job.about.size, cfg.data.workers, device=world.device)
        moved(job.source.encoder, world.device)
        ready = [x.contiguous(memory_format=CHANNELS_LAST[x.dim()]) for x in images.batches(cfg.batch)]

        @torch.inference_mode()
        def bare() -> list[Tensor]:
            with world.autocast():
                return [job.source.encoder(x)[-1].float().mean((2, 3)) for x in ready]

        def ours() -> None:
            job.out = Path(folder) / f"out-{len(seconds['ours'])}"
            job.run()

        turns: dict[str, Callable[[], Any]] = {
            "ours": ours, "bare": bare, "loader": lambda: [*images.batches(cfg.batch)],
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        now = clock(world.device)
        for number in range(1 + rounds):
            for name in sorted(turns, reverse=number % 2 == 1):  # so that none always follows the same one
                began = now()
                turns[name]()
                seconds[name].append(now() - began)
        written = Embeddings.open(Path(folder) / "out-0").values
    if not np.allclose(written, torch.cat(bare()).cpu().numpy(), rtol=1e-3, atol=1e-3):
        raise SystemExit(f"{case}: the bare pass computes other features: their times say nothing")
    timed = {name: values[1:] for name, values in seconds.items()}
    return {"case": case, "device": world.device.type, "images": len(job.rows)} | figures(timed, len(job.rows))


def figures(seconds: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Rates of the medians, and the ratio of ours to the slower of the others. ``seconds``: of each round's turns."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    each = [max(bare, loader) / ours for ours, bare, loader in zip(*(seconds[n] for n in ORDER), strict=True)]
    ratio = max(medians["bare"], medians["loader"]) / medians["ours"]
    rates = {name: images / medians[name] for name in ORDER}
    return {"images_per_second": rates, "ratio": ratio, "lowest": min(each), "highest": max(each)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES, help="ENCODER-SIZE …; default: %(default)s")
    parser.add_argument("--shards", type=Path, help="default: phantoms, made in a temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--keys", nargs="+", default=GPU if torch.cuda.is_available() else CPU, help="KEY=VALUE …")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            images = 2048 if torch.cuda.is_available() else 48
            shards = args.shards or make_shards(Path(folder), images, 256, 256, CORES)
        print("case            images  ours/s  bare/s  loader/s  ratio")
        for case in args.cases:
            rows.append(row := measure(case, shards, args.rounds, args.keys))
            ours, bare, loader = row["images_per_second"].values()
            print(
                f"{case:<16}{row['images']:>6}{ours:8.1f}{bare:8.1f}{loader:10.1f}{row['ratio']:7.3f}"
                f" ({row['lowest']:.3f} to {row['highest']:.3f})"
                f"{'' if row['ratio'] >= GOAL else f'   below the goal, {GOAL}'}", flush=True
            )  # fmt: skip
    if args.json:
        write_json(args.json, {"environment": environment(), "keys": [*args.keys], "goal": GOAL, "cases": rows})


if __name__ == "__main__":
    main()
