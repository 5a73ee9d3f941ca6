"""How fast is a step: of DiRA on MoCo, beside the authors' loop and with one change at a time, and of other recipes?

Those of a part's steps that compute the same start from the same weights and images, and the losses of their first
steps must be those of the most exact of them, within their precision's tolerance, else their speed is invalid. A step's
ms: median over turns of five. Host ms: of a step on eight images, where the GPU always waits for the host. Of
peak: the products that a step needs, as the planner counts them, of the vendor's figure for their kind.
"""

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.gpu import items, steady
from benchmarks.gpu.basics import peak
from benchmarks.gpu.items import absent
from benchmarks.gpu.loops import Authors, Ours, loopback, turn
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.synthetic import BATCHES

TURNS = 2.0  # seconds of measuring
CHECKED, TURN = 3, 5  # first steps whose losses are compared; steps of a turn, of which a rehearsal takes one
# How far the losses of the first step may be from IEEE fp32's: another order of sums, 10 bits of mantissa, 7 bits. Each
# step's rounding grows in the next: the others may be LATER times as far.
TOLERANCE = {"fp32": 1e-4, "tf32": 2e-3, "bf16": 1e-2}
LATER = 10
EXACT = ("fp32", "tf32", "bf16")
NCHW, NHWC = "parallel.channels_last=false", "parallel.channels_last=true"
FP32_D, FAST = "adversary.precision=fp32", "parallel.attention=fast"
PLAIN = "precision=fp32", NCHW, FP32_D, "model.bn_groups=1", "data.batch=256"
PAPER = NHWC, "adversary.precision=bf16", "model.bn_groups=1", "data.batch=256"
SHARDED = tuple((*PAPER, "data.batch=64", f"parallel={kind}") for kind in ("zero3", "fsdp2"))


@dataclass(frozen=True)
class Rung:
    """A recipe, and one way to train it."""

    name: str
    recipe: str = "dira_moco"
    keys: tuple[str, ...] = ()
    kind: str = "bf16"  # of product, whose peak and tolerance count
    authors: bool = False
    free: bool = False  # cuDNN may choose among algorithms that are not reproducible
    plain: bool = False  # norms are torch's own operations, as they were before ours
    alike: bool = False  # it computes what the recipe's IEEE fp32 does, and its losses must be those


PARTS = {
    "ladder": (
        Rung("bf16", keys=PAPER, alike=True),
        Rung("torch's norms", keys=PAPER, plain=True, alike=True),
        Rung("batch 64", keys=(*PAPER, "data.batch=64")),
        Rung("D in fp32", keys=(*PAPER, FP32_D), alike=True),
        Rung("4 BatchNorm groups", keys=(*PAPER, "model.bn_groups=4")),
        Rung("fp16", keys=(*PAPER, "precision=fp16")),
        Rung("authors' loop", keys=PLAIN, kind="tf32", authors=True, alike=True),
    ),
    "transformers": (
        Rung("dinov2_vitb14, batch 128", "dinov2_vitb14", ("data.batch=128",)),
        Rung("dinov2_vitb14, batch 128, any attention", "dinov2_vitb14", ("data.batch=128", FAST)),
        Rung("dino_vit3d", "dino_vit3d"),
        Rung("dino_vit3d, any attention", "dino_vit3d", (FAST,)),
        Rung("mae_vit3d", "mae_vit3d"),
    ),
    "sharded": (
        Rung("neither", keys=(*PAPER, "data.batch=64"), alike=True),
        Rung("FSDP2", keys=SHARDED[1], alike=True),
        Rung("ZeRO-3", keys=SHARDED[0], alike=True),  # last: it has run on no GPU
    ),
    "mended": (
        Rung("dira_moco", keys=PAPER, alike=True),
        Rung("dira_moco, torch's norms", keys=PAPER, plain=True, alike=True),
        Rung("labels", "labels"),
        Rung("labels, torch's norms", "labels", plain=True),
        Rung("mae3d", "mae3d"),
        Rung("mae3d, channels last", "mae3d", (NHWC,)),
    ),
    "known": (
        Rung("IEEE fp32", keys=PLAIN, kind="fp32", alike=True),
        Rung("NCHW", keys=(*PAPER, NCHW), alike=True),
        Rung("any cuDNN algorithm", keys=PAPER, free=True, alike=True),
        Rung("activation checkpointing", keys=(*PAPER, "parallel.checkpoint_activations=true"), alike=True),
        Rung("ViT-B/16", "ViT-B/16", PAPER, alike=True),
        Rung("ViT-B/16, IEEE fp32", "ViT-B/16", PLAIN, "fp32", alike=True),
        Rung("simsiam", "simsiam", PAPER),
        Rung("barlow", "barlow", (NHWC, "data.batch=256")),
    ),
    "volumes": (
        Rung("models_genesis, NCDHW", "models_genesis", (NCHW,)),
        Rung("dira_moco3d", "dira_moco3d"),
        Rung("pcrl3d", "pcrl3d"),
        Rung("dira_transvw", "dira_transvw"),
        Rung("mae3d, NDHWC", "mae3d", (NHWC,)),
        Rung("mae3d, sparse", "mae3d, sparse"),
    ),
}


def run(job: Job) -> bool:
    """All of the part that fit into the time; whether they ended well, and with the losses that they must have."""
    each: dict[str, items.Item] = {
        rung.name: partial(plainly if rung.plain else measure, rung, job.rehearse) for rung in PARTS[job.part]
    }
    if job.part == "transformers":
        recipe = words("dinov2_vitb14", job.rehearse)
        each |= {
            "waits of dinov2_vitb14": partial(steady.waits, *recipe),
            "repeat dinov2_vitb14": partial(steady.repeat, *recipe),
        }
    fine = items.run(job, each, 0.7)
    return fine and items.sound(finished(job.report.read()[job.part]["items"], {}))


def plainly(rung: Rung, rehearse: bool) -> dict[str, Any]:
    """The same with torch's own norms."""
    from dira_scale.train.models.norm_act import plain

    with plain():
        return measure(rung, rehearse)


def measure(rung: Rung, rehearse: bool) -> dict[str, Any]:
    """A rung's figures, and its first losses."""
    if rung.keys in SHARDED and not loopback():  # torch would try for half an hour
        return {"left_out": "this machine's loopback network is down, which a process group needs"}
    if "parallel=zero3" in rung.keys and absent("deepspeed"):
        return {"left_out": "deepspeed is missing"}
    cuda, seconds, steps = torch.cuda.is_available(), 0.0 if rehearse else TURNS, 1 if rehearse else TURN
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    held, losses, given = torch.cuda.memory_allocated() if cuda else None, [], words(rung.recipe, rehearse, *rung.keys)
    expects = " ".join(given)
    loop = (Authors if rung.authors else Ours)(*given)
    if rung.free:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    for number in range(CHECKED):
        loop.step(number)
        losses.append(loop.losses())
    taken = statistics.median(turn(loop, number, steps) for number in _until(seconds))
    figures = {"a step": figure(1e3 * taken, "ms", None if rung.authors else (expects, "ms"))}
    if cuda:
        figures["memory"] = figure(torch.cuda.max_memory_allocated() / 2**30, "GiB", (expects, "GiB"))
    # Of eight volumes the device's work may take as long.
    if isinstance(loop, Ours) and loop.batches[0].views[0].dim() == 4:
        turn(loop, CHECKED, 1, few=True)  # kernels are chosen for these sizes anew
        host = statistics.median(turn(loop, number, steps, few=True) for number in _until(seconds / 8))
        figures["host"] = figure(1e3 * host, "ms", (expects, "host ms"))
        figures["distortion"] = figure(1e3 * turn(Distortion(loop), 0, BATCHES), "ms")
    about = {"recipe": rung.recipe, "kind": rung.kind, "authors": rung.authors, "alike": rung.alike, "losses": losses}
    about |= {"samples": loop.samples, "memory_before": held, "expects": expects, "seconds_per_step": taken}
    return about | {"figures": figures}


class Distortion:
    """A step that only distorts the views of a loop's batches."""

    def __init__(self, loop: Ours) -> None:
        task: Any = loop.task
        self.each = task.objective.distorts if hasattr(task, "objective") else [task.distort]
        self.device, self.batch = loop.device, loop.batches[0].to(loop.device)

    def step(self, number: int, few: bool = False) -> None:
        for module, view, given in zip(self.each, self.batch.views, self.batch.distortions, strict=False):
            module(view, given)


def _until(seconds: float) -> Iterator[int]:
    """Numbers of the first steps of turns, of one at least."""
    end = time.perf_counter() + seconds
    for i in itertools.count():
        yield CHECKED + i * TURN
        if time.perf_counter() >= end:
            return


def finished(rows: Mapping[str, dict[str, Any]], content: Mapping[str, Any]) -> dict[str, Any]:
    """``rows`` with what follows from all of them together: speed-up, share of peak, agreement."""
    done, result = [row for row in rows.values() if "losses" in row], dict(rows)
    for title, row in rows.items():
        if "losses" not in row:
            continue
        same = [other for other in done if other["recipe"] == row["recipe"]]
        note, fine = [f"{row['samples'] / row['seconds_per_step']:,.1f} samples/s"], True
        for other in same:
            if other["authors"] and other["samples"] == row["samples"]:
                note.append(f"x authors {other['seconds_per_step'] / row['seconds_per_step']:.2f}")
        needed = content.get("expected", {}).get(row["expects"], {}).get("TFLOP")
        if needed and (most := peak(content.get("device", ""), row["kind"])):
            note.append(f"{100 * needed / row['seconds_per_step'] / most:.0f} % of peak")
        alike = [other for other in same if other["alike"] and other["samples"] == row["samples"]]
        plain = min(alike, key=lambda other: EXACT.index(other["kind"]), default=row)
        if plain is not row and row["alike"]:
            first, *later = [deviation(*pair) for pair in zip(row["losses"], plain["losses"], strict=True)]
            allowed = TOLERANCE[row["kind"]]
            fine = first <= allowed and max(later) <= LATER * allowed
            note.append(f"losses off by {first:.0e} of {allowed:.0e}" + ("" if fine else ": DIFFERS"))
        step = row["figures"]["a step"] | {"note": ", ".join(note), "fine": fine}
        result[title] = row | {"figures": row["figures"] | {"a step": step}}
    return result


def deviation(losses: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Largest difference of a term in a step, as a share of the term or of the whole loss, whichever is larger: a term
    near 0 (SimSiam's starts there) has no relative difference that says anything."""
    whole = abs(reference["loss"])
    return max(abs(losses[name] - value) / max(abs(value), whole) for name, value in reference.items())
