"""How fast is a training step, from the authors' loop to our fastest settings, one change per rung?

    python -m benchmarks.gpu.ladder OUT [--name ladder] [--batch 256] [--size 224] [--rehearse] [--rungs PART ...]

Each rung starts from the same weights and images; the losses of its first steps must be those of IEEE fp32 within its
precision's tolerance, else its speed is invalid. Rungs for which there is no time left are named and not run. The table
in OUT/gpu.json, under --name, is updated after every rung; rungs that it already has are not run again.

images/s and ms: median over turns of five steps. Host ms: of a step on eight images, where the GPU always waits for the
host. TFLOP/s: the products that a step of our loop needs, as torch.utils.flop_counter counts them, divided by its time;
unneeded ones of the authors' loop are not counted. Share of peak: of the vendor's figure for the rung's kind of product
(benchmarks/gpu/peaks.py). Memory: torch's peak allocation. The second table has the parts of each step
(benchmarks/gpu/split.py). `bench gpu` calls this and stops it when its time is up.
"""

import argparse
import gc
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import synthetic
from benchmarks.gpu.loops import Authors, Loop, Ours
from benchmarks.gpu.peaks import peak
from benchmarks.gpu.report import Report
from benchmarks.gpu.split import PARTS, Split

CHECKED, TURN = 3, 5  # first steps whose losses are compared; steps of a turn, of which a rehearsal takes one
# How far the losses of the first step may be from IEEE fp32's: another order of sums, 10 bits of mantissa, 7 bits. Each
# step's rounding grows in the next: the others may be LATER times as far.
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-3, "bf16": 1e-2}
LATER = 10
BROKEN = "its process ended while it was measured"


@dataclass(frozen=True)
class Rung:
    """A network and one way to train it."""

    network: str
    name: str
    keys: tuple[str, ...]
    kind: str  # of product, whose peak and tolerance count
    authors: bool = False
    free: bool = False  # cuDNN may choose among algorithms that are not reproducible
    batch: int | None = None  # another than the others'
    alike: bool = True  # it computes what the network's IEEE fp32 does, and its losses must be those

    @property
    def title(self) -> str:
        return f"{self.network}: {self.name}"


NETWORKS = {
    "MoCo ResNet-50": ("method=dira_moco", "optim=sgd_moco", "model.encoder=resnet50"),
    "SimSiam ResNet-50": ("method=dira_simsiam", "optim=sgd_simsiam", "model.encoder=resnet50"),
    "Barlow Twins ResNet-50": (
        "method=dira_barlow", "optim=lars_barlow", "optim.warmup_epochs=0", "model.encoder=resnet50"
    ),
    "MoCo ViT-B/16": ("method=dira_moco", "optim=sgd_moco", "model.encoder=vit_base_patch16_224"),
}  # fmt: skip
SMALL = "model.decoder_channels=[32,16,16,8,8]", "parallel.threads=1"
TINY = {
    "MoCo ResNet-50": (*SMALL, "model.encoder=test_resnet", "method.base.queue=64"),
    "SimSiam ResNet-50": (*SMALL, "model.encoder=test_resnet", "method.base.dim=64", "method.base.bottleneck=16"),
    "Barlow Twins ResNet-50": (*SMALL, "model.encoder=test_resnet", "method.base.dim=64"),
    "MoCo ViT-B/16": (*SMALL, "model.encoder=test_vit", "method.base.queue=64"),
}  # rehearsals: the same machinery, figures that say nothing

NCHW, NHWC = "parallel.channels_last=false", "parallel.channels_last=true"
FUSED = "+optim.optimizer.fused=true", "+optim.discriminator.fused=true"
BEST = "precision=bf16", NHWC, *FUSED
COMPILED = "torch.compile"


def rungs() -> list[Rung]:
    """In the order in which they are run: what matters most first, torch.compile, which may take minutes, last."""
    first, *others = NETWORKS
    ladder = [
        Rung(first, "bf16, NHWC, fused", BEST, "bf16"),
        Rung(first, "authors' loop", ("precision=fp32", NCHW), "tf32", authors=True),
        Rung(first, "IEEE fp32", ("precision=fp32", NCHW), "fp32"),
        Rung(first, "4 BatchNorm groups", (*BEST, "model.bn_groups=4"), "bf16", alike=False),
        Rung(first, "batch 64", BEST, "bf16", batch=64, alike=False),
        Rung(first, "any cuDNN algorithm", BEST, "bf16", free=True),
        Rung(first, "tf32, NCHW", ("precision=tf32", NCHW), "tf32"),
        Rung(first, "bf16, NCHW", ("precision=bf16", NCHW), "bf16"),
        Rung(first, "bf16, NHWC", ("precision=bf16", NHWC), "bf16"),
    ]
    for network in others:
        fused = () if "optim=lars_barlow" in NETWORKS[network] else FUSED
        ladder.append(Rung(network, "bf16, NHWC", ("precision=bf16", NHWC, *fused), "bf16"))
        ladder.append(Rung(network, "IEEE fp32", ("precision=fp32", NCHW), "fp32"))
    ladder.append(Rung(first, COMPILED, (*BEST, "parallel.compile=true"), "bf16"))
    return ladder


def measure(rung: Rung, keys: Sequence[str], seconds: float, steps: int = TURN) -> dict[str, Any]:
    """A rung's figures over about ``seconds`` of turns of ``steps``, its first losses among them."""
    composed, config = synthetic.configuration("model.bn_groups=1", *NETWORKS[rung.network], *rung.keys, *keys)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    loop: Loop = Authors(composed, config) if rung.authors else Ours(composed, config)
    if rung.free:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    losses, began = [], time.perf_counter()
    for number in range(CHECKED):
        loop.step(number)
        losses.append(loop.losses())
    warm = time.perf_counter() - began
    step = [turn(loop, number, steps) for number in _until(time.perf_counter() + seconds)]
    with Split(loop.parts, loop.device) as split:
        turn(loop, CHECKED, steps)
    found = {
        "batch": config.data.batch,
        "seconds_per_step": statistics.median(step),
        "images_per_second": config.data.batch / statistics.median(step),
        "turns": step,
        "parts_ms": {part: value / steps for part, value in split.milliseconds().items()},
        "first_steps_seconds": warm,
        "peak_memory": torch.cuda.max_memory_allocated() if cuda else None,
        "losses": losses,
        "threads": torch.get_num_threads(),
    }
    if rung.kind == "fp32":  # the same in all of a network's rungs
        found["flops_per_image"] = count(loop, CHECKED) / config.data.batch
    if rung.name == COMPILED:  # it would be compiled for these sizes anew
        return found | {"host_seconds_per_step": None}
    turn(loop, CHECKED, 1, few=True)  # kernels are chosen for these sizes anew
    host = [turn(loop, number, steps, few=True) for number in _until(time.perf_counter() + seconds / 8)]
    return found | {"host_seconds_per_step": statistics.median(host)}


def _until(end: float) -> Iterator[int]:
    """Numbers of the first steps of turns, of one at least."""
    for i in itertools.count():
        yield CHECKED + i * TURN
        if time.perf_counter() >= end:
            return


def turn(loop: Loop, number: int, steps: int, few: bool = False) -> float:
    """Seconds of one of ``steps`` steps from ``number`` on."""
    wait = synthetic.wait(loop.device)
    wait()
    began = time.perf_counter()
    for i in range(steps):
        loop.step(number + i, few)
    wait()
    return (time.perf_counter() - began) / steps


def count(loop: Loop, number: int) -> int:
    """Floating-point operations of the products of a step, forward and backward; a multiplication and an addition are
    two. Attention is taken apart for it, whose fused CPU kernel is not known to torch's counter."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loop.step(number)
    return int(counter.get_total_flops())


def deviation(losses: dict[str, float], reference: dict[str, float]) -> float:
    """Largest difference of a term in a step, as a share of the term or of the whole loss, whichever is larger: a term
    near 0 (SimSiam's starts there) has no relative difference that says anything."""
    whole = abs(reference["loss"])
    return max(abs(losses[name] - value) / max(abs(value), whole) for name, value in reference.items())


def finish(rows: list[dict[str, Any]], device: str) -> None:
    """What follows from the rows of all rungs so far: TFLOP/s, share of peak, speed-up, agreement."""
    for row in rows:
        same = [other for other in rows if other["network"] == row["network"] and "seconds_per_step" in other]
        plain = next((other for other in same if other["rung"] == "IEEE fp32"), None)
        authors = next((other for other in same if other["authors"]), None)
        if "seconds_per_step" not in row or plain is None:
            continue
        row["tflops"] = plain["flops_per_image"] * row["images_per_second"] / 1e12
        most = peak(device, row["kind"])
        row["share_of_peak"] = row["tflops"] / most if most else None
        row["times_authors"] = row["images_per_second"] / authors["images_per_second"] if authors else None
        if not row["alike"]:
            continue
        first, *later = [deviation(*pair) for pair in zip(row["losses"], plain["losses"], strict=True)]
        row["deviation"], row["deviation_later"], row["tolerance"] = first, max(later), TOLERANCE[row["kind"]]
        row["agrees"] = first <= row["tolerance"] and max(later) <= LATER * row["tolerance"]


def climb(asked: argparse.Namespace) -> dict[str, Any]:
    """All rungs that stand in no report yet and fit into ``asked.seconds``; the report is written after each."""
    began, longest, file = time.perf_counter(), 0.0, Report(asked.out)
    report = (file.read().get(asked.name) or _empty(asked)) | {"lost": False}
    reference = file.read().get("ladder", {}).get("rungs", []) if asked.name != "ladder" else []
    for rung in [rung for rung in rungs() if rung.title in report["not_run"]]:
        start = time.perf_counter()
        if asked.seconds - (start - began) < longest:  # it would take no less than the longest so far
            continue
        report["not_run"].remove(rung.title)
        row: dict[str, Any] = {"network": rung.network, "rung": rung.name, "kind": rung.kind, "authors": rung.authors}
        row |= {"alike": rung.alike, "failed": BROKEN}
        report["rungs"].append(row)
        file.add(**{asked.name: report})
        batch = min(asked.batch, rung.batch or asked.batch)
        keys = [f"data.batch={batch}", f"data.size={asked.size}", *(TINY[rung.network] if asked.rehearse else ())]
        found = attempt(rung, keys, asked.rehearse, asked.turns)
        del row["failed"]
        row |= found
        longest = max(longest, time.perf_counter() - start)
        finish([*report["rungs"], *reference], report["device"])
        print(line(row), flush=True)
        file.add(**{asked.name: report})
        if lost():
            report["lost"] = True
            file.add(**{asked.name: report})
            break
    return report


def _empty(asked: argparse.Namespace) -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report: dict[str, Any] = {"device": device, "batch": asked.batch, "size": asked.size, "torch": torch.__version__}
    titles = [rung.title for rung in rungs()]
    # What is not run is named from the start: this may be stopped from outside at any time.
    chosen = [title for title in titles if asked.rungs is None or any(part in title for part in asked.rungs)]
    return report | {"rehearsal": asked.rehearse, "rungs": [], "not_run": chosen}


def attempt(rung: Rung, keys: Sequence[str], rehearse: bool, seconds: float) -> dict[str, Any]:
    """``measure``, or why it did not come to an end; the device's memory is free again after it."""
    try:
        with traced_only() if rehearse else nullcontext():
            return measure(rung, keys, *((0, 1) if rehearse else (seconds,)))
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory: a smaller --batch fits"}
    except Exception as error:  # a rung that breaks must not cost the others
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        gc.collect()
        if torch.cuda.is_available() and not lost():
            torch.cuda.empty_cache()


def traced_only() -> AbstractContextManager[Any]:
    """Compiled blocks are traced and differentiated, but no machine code is made, which takes a CPU minutes."""
    return mock.patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))


def lost() -> bool:
    """Whether the device answers no more: after an illegal access, say, only another process can go on."""
    try:
        synthetic.wait(torch.device("cuda" if torch.cuda.is_available() else "cpu"))()
    except RuntimeError:
        return True
    return False


HEAD = (
    f"{'network':<24}{'rung':<20}{'images/s':>9}{'x authors':>10}{'ms':>8}{'host ms':>9}{'TFLOP/s':>9}{'% peak':>8}"
    f"{'GiB':>7}{'losses off by':>18}"
)


def line(row: dict[str, Any]) -> str:
    """A rung in the table; what is not known stays empty."""
    start = f"{row['network']:<24}{row['rung']:<20}"
    if "failed" in row:
        return f"{start}  {row['failed']}"

    memory, share = row["peak_memory"], row.get("share_of_peak")
    cells = cell(row["images_per_second"], 9, 1) + cell(row.get("times_authors"), 10, 2)
    host = row["host_seconds_per_step"]
    cells += cell(1e3 * row["seconds_per_step"], 8, 1) + cell(host and 1e3 * host, 9, 1)
    cells += cell(row.get("tflops"), 9, 2)
    cells += cell(share and 100 * share, 8, 1) + cell(memory and memory / 2**30, 7, 1)
    off = "" if "deviation" not in row else f"{row['deviation']:.0e} of {row['tolerance']:.0e}"
    return f"{start}{cells}{off:>18}{'' if row.get('agrees', True) else '  DIFFERS'}"


def cell(value: float | None, width: int, digits: int) -> str:
    """A figure in its column."""
    return " " * width if value is None else f"{value:{width}.{digits}f}"


def split_line(row: dict[str, Any]) -> str:
    """A rung in the table of parts."""
    cells = "".join(cell(row["parts_ms"][part], 15, 1) for part in PARTS)
    return f"{row['network']:<24}{row['rung']:<20}{cells}"


def text(report: dict[str, Any]) -> str:
    """The report as a table, and in words what was not run."""
    title = f"{report['device']}, torch {report['torch']}, batch {report['batch']} of {report['size']} pixels"
    lines = [title + (": a rehearsal, its figures say nothing" if report["rehearsal"] else ""), HEAD]
    lines += [line(row) for row in report["rungs"]]
    if split := [split_line(row) for row in report["rungs"] if "parts_ms" in row]:
        lines += ["", f"{'ms of a step in':<44}" + "".join(f"{part:>15}" for part in PARTS), *split]
    lines += [f"not run, the time was up: {title}" for title in report["not_run"]]
    return "\n".join(lines) + "\n"


def sound(report: dict[str, Any]) -> bool:
    """Whether every rung that was run came to an end, in memory's bounds, with the losses that it must have."""
    failed = [row for row in report["rungs"] if not row.get("failed", "out of memory").startswith("out of memory")]
    return not failed and all(row.get("agrees", True) for row in report["rungs"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=440, help="for all rungs")
    parser.add_argument("--turns", type=float, default=3, help="seconds of measuring a rung")
    parser.add_argument("--name", default="ladder", help="of the table in gpu.json")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, on the CPU too: does all of it run?")
    parser.add_argument("--rungs", nargs="+", help="only those whose title has one of these parts")
    asked = parser.parse_args(argv)
    if asked.rehearse:
        asked.batch, asked.size = 8, 32
    asked.out.mkdir(parents=True, exist_ok=True)
    print(HEAD, flush=True)
    report = climb(asked)
    for title in report["not_run"]:
        print(f"not run, the time was up: {title}")
    return 0 if sound(report) else 1


if __name__ == "__main__":
    sys.exit(main())
