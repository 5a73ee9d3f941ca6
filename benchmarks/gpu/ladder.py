"""How fast is a training step, from the authors' loop to all that this project offers, one change a rung?

    python -m benchmarks.gpu.ladder OUT [--seconds 440] [--batch 256] [--size 224] [--rehearse] [--rungs PART ...]

Each rung starts from the same weights and images; the losses of its first steps must be those of IEEE fp32 within its
precision's tolerance, else its speed says nothing. Rungs that the time no longer allows are named and not run. The
table grows in OUT/ladder.json after every rung.

images/s: median over turns of five steps. TFLOP/s: the products that a step of our loop needs, as
torch.utils.flop_counter counts them, by its time; the authors' superfluous ones do not count as achieved. Share of
peak: of the vendor's figure for the rung's kind of product (benchmarks/gpu/peaks.py). Memory: the most that torch
had allocated. `bench gpu` calls this and stops it in the end.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import synthetic
from benchmarks.gpu.loops import Authors, Loop, Ours
from benchmarks.gpu.peaks import peak
from dira_scale.files import write_json

CHECKED, TURN = 3, 5  # first steps whose losses are compared; steps of a turn
# How far the losses of the first step may be from IEEE fp32's: another order of sums, 10 bits of mantissa, 7 bits. Each
# step's rounding grows in the next: the others may be LATER times as far.
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-3, "bf16": 1e-2}
LATER = 10


@dataclass(frozen=True)
class Rung:
    """A network and one way to train it."""

    network: str
    name: str
    keys: tuple[str, ...]
    kind: str  # of product, whose peak and tolerance count
    authors: bool = False
    free: bool = False  # cuDNN may choose among algorithms that are not reproducible

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
    "MoCo ResNet-50": (*SMALL, "model.encoder=resnet18", "method.base.queue=64"),
    "SimSiam ResNet-50": (*SMALL, "model.encoder=resnet18", "method.base.dim=64", "method.base.bottleneck=16"),
    "Barlow Twins ResNet-50": (*SMALL, "model.encoder=resnet18", "method.base.dim=64"),
    "MoCo ViT-B/16": (*SMALL, "model.encoder=vit_tiny_patch16_224", "method.base.queue=64"),
}  # rehearsals: the same machinery, figures that say nothing

NCHW, NHWC = "parallel.channels_last=false", "parallel.channels_last=true"
FUSED = "+optim.optimizer.fused=true", "+optim.discriminator.fused=true"


def rungs() -> list[Rung]:
    """In the order in which they are run: what matters most first, torch.compile, which may take minutes, last."""
    first, *others = NETWORKS
    ladder = [
        Rung(first, "IEEE fp32", ("precision=fp32", NCHW), "fp32"),
        Rung(first, "authors' loop", ("precision=fp32", NCHW), "tf32", authors=True),
        Rung(first, "tf32", ("precision=tf32", NCHW), "tf32"),
        Rung(first, "bf16", ("precision=bf16", NCHW), "bf16"),
        Rung(first, "+ channels_last", ("precision=bf16", NHWC), "bf16"),
        Rung(first, "+ fused optimizers", ("precision=bf16", NHWC, *FUSED), "bf16"),
        Rung(first, "+ any cuDNN algorithm", ("precision=bf16", NHWC, *FUSED), "bf16", free=True),
    ]
    for network in others:
        fused = () if "optim=lars_barlow" in NETWORKS[network] else FUSED
        ladder.append(Rung(network, "IEEE fp32", ("precision=fp32", NCHW), "fp32"))
        ladder.append(Rung(network, "bf16, channels_last", ("precision=bf16", NHWC, *fused), "bf16"))
    ladder.append(Rung(first, "+ torch.compile", ("precision=bf16", NHWC, *FUSED, "parallel.compile=true"), "bf16"))
    return ladder


def measure(rung: Rung, keys: Sequence[str], seconds: float) -> dict[str, Any]:
    """A rung's figures over about ``seconds``, its first losses among them."""
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
    turns: list[float] = []
    number, began = CHECKED, time.perf_counter()
    while not turns or time.perf_counter() - began < seconds:
        turns.append(turn(loop, number) / TURN)
        number += TURN
    found = {
        "seconds_per_step": statistics.median(turns),
        "images_per_second": config.data.batch / statistics.median(turns),
        "turns": turns,
        "first_steps_seconds": warm,
        "peak_memory": torch.cuda.max_memory_allocated() if cuda else None,
        "losses": losses,
        "threads": torch.get_num_threads(),
    }
    if rung.kind == "fp32":  # the same in all of a network's rungs
        found["flops_per_step"] = count(loop, number)
    return found


def turn(loop: Loop, number: int) -> float:
    """Seconds of ``TURN`` steps from ``number`` on."""
    wait = synthetic.wait(loop.device)
    wait()
    began = time.perf_counter()
    for i in range(TURN):
        loop.step(number + i)
    wait()
    return time.perf_counter() - began


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
        row["tflops"] = plain["flops_per_step"] / row["seconds_per_step"] / 1e12
        most = peak(device, row["kind"])
        row["share_of_peak"] = row["tflops"] / most if most else None
        row["times_authors"] = authors["seconds_per_step"] / row["seconds_per_step"] if authors else None
        first, *later = [deviation(*pair) for pair in zip(row["losses"], plain["losses"], strict=True)]
        row["deviation"], row["deviation_later"], row["tolerance"] = first, max(later), TOLERANCE[row["kind"]]
        row["agrees"] = first <= row["tolerance"] and max(later) <= LATER * row["tolerance"]


def climb(asked: argparse.Namespace) -> dict[str, Any]:
    """All rungs that fit into ``asked.seconds``; the report is written after each."""
    began, longest = time.perf_counter(), 0.0
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report: dict[str, Any] = {"device": device, "batch": asked.batch, "size": asked.size, "torch": torch.__version__}
    chosen = [rung for rung in rungs() if not asked.rungs or any(part in rung.title for part in asked.rungs)]
    # What is not run is named from the start: this may be stopped from outside at any time.
    report |= {"rehearsal": asked.rehearse, "rungs": [], "not_run": [rung.title for rung in chosen]}
    for rung in chosen:
        start = time.perf_counter()
        if asked.seconds - (start - began) < longest:  # it would take no less than the longest so far
            continue
        row: dict[str, Any] = {"network": rung.network, "rung": rung.name, "kind": rung.kind, "authors": rung.authors}
        keys = [f"data.batch={asked.batch}", f"data.size={asked.size}", *(TINY[rung.network] if asked.rehearse else ())]
        report["rungs"].append(row | attempt(rung, keys, asked.turns))
        report["not_run"].remove(rung.title)
        longest = max(longest, time.perf_counter() - start)
        finish(report["rungs"], device)
        print(line(report["rungs"][-1]), flush=True)
        write_json(asked.out / "ladder.json", report)
    return report


def attempt(rung: Rung, keys: Sequence[str], seconds: float) -> dict[str, Any]:
    """``measure``, or why it did not come to an end; the device's memory is free again after it."""
    try:
        return measure(rung, keys, seconds)
    except torch.cuda.OutOfMemoryError:
        return {"failed": "out of memory: a smaller --batch fits"}
    except Exception as error:  # a rung that breaks must not cost the others
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()


HEAD = (
    f"{'network':<24}{'rung':<24}{'images/s':>9}{'x authors':>10}{'ms':>8}{'TFLOP/s':>9}{'% peak':>8}{'GiB':>7}"
    f"{'losses off by':>18}"
)


def line(row: dict[str, Any]) -> str:
    """A rung in the table; what is not known stays empty."""
    start = f"{row['network']:<24}{row['rung']:<24}"
    if "failed" in row:
        return f"{start}  {row['failed']}"

    def cell(value: float | None, width: int, digits: int) -> str:
        return " " * width if value is None else f"{value:{width}.{digits}f}"

    memory, share = row["peak_memory"], row.get("share_of_peak")
    cells = cell(row["images_per_second"], 9, 1) + cell(row.get("times_authors"), 10, 2)
    cells += cell(1e3 * row["seconds_per_step"], 8, 1) + cell(row.get("tflops"), 9, 2)
    cells += cell(share and 100 * share, 8, 1) + cell(memory and memory / 2**30, 7, 1)
    off = "" if "deviation" not in row else f"{row['deviation']:.0e} of {row['tolerance']:.0e}"
    return f"{start}{cells}{off:>18}{'' if row.get('agrees', True) else '  DIFFERS'}"


def text(report: dict[str, Any]) -> str:
    """The report as a table, and in words what was not run."""
    title = f"{report['device']}, torch {report['torch']}, batch {report['batch']} of {report['size']} pixels"
    lines = [title + (": a rehearsal, its figures say nothing" if report["rehearsal"] else ""), HEAD]
    lines += [line(row) for row in report["rungs"]]
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
    parser.add_argument("--turns", type=float, default=8, help="seconds of measuring a rung")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--rehearse", action="store_true", help="tiny networks, on the CPU too: does all of it run?")
    parser.add_argument("--rungs", nargs="+", help="only those whose title has one of these parts")
    asked = parser.parse_args(argv)
    if asked.rehearse:
        asked.batch, asked.size = 8, 32
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "ladder.json").unlink(missing_ok=True)  # of another time
    print(HEAD, flush=True)
    report = climb(asked)
    for title in report["not_run"]:
        print(f"not run, the time was up: {title}")
    return 0 if sound(report) else 1


if __name__ == "__main__":
    sys.exit(main())
