"""Is a device fed? A pretended one, on a CPU: a step launches for --host ms and is computed for --device ms.

    python -m dira_scale.bench feed [--host 79] [--device 139] [--batch 128] [--loaders 0x2 1 2] [--steps 20]

Launching is small operations with Python between them, as a step's are; at most one step is ahead of the device.
--loaders: so many processes, or 0xN: N threads of this process. "launching": the time that launching a step takes
while the loader works (its thread runs or is blocked; waiting for a core does not count), and its ratio to that alone.
"ratio": images/s of the fed device, divided by those of the slower of loader and device alone. The last column divides
by the time of all processes.
"""

import argparse
import io
import tempfile
import time
from contextlib import closing, redirect_stdout
from pathlib import Path

import torch

from benchmarks.backends import make_shards
from benchmarks.turns import core_seconds
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.loaders import Loader, LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.order import Order
from dira_scale.train.data.views import ViewSpec

OPERATIONS = 2600  # as many as a step of dira_moco launches


def launch(spins: int, operations: int = OPERATIONS) -> float:
    """Launch a step; returns the seconds that its thread ran or was blocked, as by the interpreter's lock."""
    x, y, began, waited = torch.zeros(8), torch.ones(8), time.perf_counter(), queued()
    for _ in range(operations):
        for _ in range(spins):
            pass
        x.add_(y)
    return time.perf_counter() - began - (queued() - waited)


def queued() -> float:
    """Return the seconds that this thread has waited for a core."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


def spins_of(seconds: float) -> int:
    """Return how often Python counts between operations, so that launching takes so long."""
    return max(1, round(100 * seconds / min(launch(100) for _ in range(3))))


def loader_of(shards: Path, kind: str, batch: int) -> Loader:
    processes, _, threads = kind.partition("x")
    dataset = ShardedDataset.open(shards)
    order = Order((len(dataset.rows("train")),), seed=0, batch=batch, remainder="wrap")
    spec = LoaderSpec([dataset], "train", order, ViewSpec(), seed=0, workers=int(threads or processes))
    return choose("cpu").build(spec, int(processes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"host": 79.0, "device": 139.0, "batch": 128, "steps": 20}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--loaders", nargs="+", default=["0x1", "0x2", "1", "2", "4"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with redirect_stdout(io.StringIO()):
            shards = make_shards(Path(folder), 96, 512, 512, 2)
        spins, device = spins_of(args.host / 1e3), args.device / 1e3
        alone = min(launch(spins) for _ in range(5))
        print(f"alone: launching {1e3 * alone:.1f} ms, the device {args.batch / max(alone, device):,.0f} images/s")
        for kind in args.loaders:
            with closing(loader_of(shards, kind, args.batch).iterate(0, 10**6)) as batches:
                for _ in range(8):
                    next(batches)
                began, cores = time.perf_counter(), core_seconds()
                for _ in range(args.steps):
                    next(batches)
                rate, cores = args.steps * args.batch / (time.perf_counter() - began), core_seconds() - cores
                launching, done, began = 0.0, [0.0, 0.0], time.perf_counter()
                for _ in range(args.steps):
                    next(batches)
                    time.sleep(max(0.0, done[-2] - time.perf_counter()))
                    start = time.perf_counter()
                    launching += launch(spins)
                    done.append(max(max(done[-1], start) + device, time.perf_counter()))
                fed = args.steps * args.batch / (done[-1] - began)
            slower = min(rate, args.batch / max(alone, device))
            print(
                f"{kind:<5} alone {rate:6,.0f}/s, fed {fed:6,.0f}/s, ratio {fed / slower:.3f}, launching "
                f"{1e3 * launching / args.steps:.1f} ms ({launching / args.steps / alone:.2f}), "
                f"{args.steps * args.batch / cores:,.0f} images a core second"
            )


if __name__ == "__main__":
    main()
