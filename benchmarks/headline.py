"""`bench end_to_end --headline`: images/s from shards to weights, of `pretrain` and of the released loop.

`pretrain experiment=dira_moco`, its last stage alone with one BatchNorm group and else its defaults, as a user starts
it, by the loaders `cpu` and, where it is installed, `dali`; and the released code's step behind PyTorch's DataLoader
with its own transforms (`num_workers` = cores - 1, pinned), on the same JPEGs of 512 pixels as single files. In turns,
each in processes of its own, over the steps FIRST to LAST; memory is of all its processes (PSS), at its peak.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import synthetic
from benchmarks.backends import make_shards
from benchmarks.plain import ReleasedPlain
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.distributed.processes import default_workers

FIRST, LAST, EVERY = 40, 200, 10  # steps
IMAGES = 4096
ALONE = "stages.di.epochs=0", "stages.dir.epochs=0", "model.bn_groups=1", "data.val_split=null", "data.remainder=wrap"
TINY = (
    "experiment=small",
    "stages.dira.epochs=10",
    "model.encoder=test_resnet",
    "model.decoder_channels=[32,16,16,8,8]",
    "data.batch=8",
)


class Released(Dataset[tuple[Tensor, ...]]):
    """Images through the released transformation.py: two views of each, and the first one before its distortion."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
        self.files, self.size, self.crop = files, size, transforms.RandomResizedCrop(size, (0.2, 1.0))
        self.tone = transforms.Compose([jitter, self._blur, transforms.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        with Image.open(self.files[number]) as file:
            crops = [self.crop(image := file.convert("RGB")), self.crop(image)]
        views = [transforms.functional.to_tensor(self._distorted(np.array(self.tone(crop)))) for crop in crops]
        return transforms.functional.to_tensor(crops[0].convert("L")), *views

    def _blur(self, image: Image.Image) -> Image.Image:
        sigma = np.random.uniform(0.1, 2.0)
        return image.filter(ImageFilter.GaussianBlur(sigma)) if np.random.rand() < 0.5 else image

    def _distorted(self, pixels: np.ndarray) -> np.ndarray:
        """Cutout of .3, its inverse of .05, shuffled patches of .3 of the images; sizes are those of 224 pixels."""
        kind, before, scale = np.random.rand(), pixels.copy(), self.size / 224
        if 0.3 < kind <= 0.35:
            pixels = np.zeros_like(pixels)
        for _ in range(10 if kind <= 0.65 else 0):
            low, high = (10, 70) if kind <= 0.3 else (154, 174) if kind <= 0.35 else (10, 15)
            h, w = np.maximum(np.random.randint(low, high + 1, 2) * scale, 1).astype(int)
            (y1, y2), (x1, x2) = (np.random.randint(0, self.size - side, 2) for side in (h, w))
            if kind <= 0.35:
                pixels[y1 : y1 + h, x1 : x1 + w] = 0 if kind <= 0.3 else before[y1 : y1 + h, x1 : x1 + w]
                if np.random.rand() < 0.1:
                    break
            else:
                pixels[y1 : y1 + h, x1 : x1 + w] = before[y2 : y2 + h, x2 : x2 + w]
                pixels[y2 : y2 + h, x2 : x2 + w] = before[y1 : y1 + h, x1 : x1 + w]
        return pixels


def released(files: Path, rows: Path, workers: int, steps: int, words: Sequence[str]) -> None:
    """Train by the released loop in this process, and write a row of ``rows`` every few steps."""
    composed, config = synthetic.configuration(*words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    take = ReleasedPlain(config, *synthetic.networks(composed, config), device)
    take.distort = lambda view, distorted: distorted  # type: ignore[assignment]
    images = Released(sorted(files.iterdir()), config.data.size)
    loader = DataLoader(images, config.data.batch, True, num_workers=workers, pin_memory=True, drop_last=True)
    batches, waited, began = (batch for _ in range(steps) for batch in loader), 0.0, time.perf_counter()
    with rows.open("w") as file:
        for step in range(1, steps + 1):
            asked = time.perf_counter()
            clean, *views = (part.to(device, non_blocking=True) for part in next(batches))
            waited += time.perf_counter() - asked
            take(SimpleNamespace(views=(clean, clean), distortions=views))  # type: ignore[arg-type]
            if step % EVERY == 0:
                row = {"step": step, "time/data": waited, "time/step": time.perf_counter() - began - waited}
                print(json.dumps(row), file=file, flush=True)
                waited, began = 0.0, time.perf_counter()


def watched(command: Sequence[str], rows: Path, batch: int, first: int, last: int) -> dict[str, float]:
    """Run ``command``, which writes ``rows``, and look at all its processes meanwhile."""
    began, seen, peak = time.perf_counter(), list[tuple[float, float, dict[str, Any]]](), 0
    log = rows.parent.with_suffix(".txt")
    with log.open("w") as printed, subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            cores, memory = usage(process.pid)
            peak, now = max(peak, memory), time.perf_counter() - began
            lines = rows.read_text().splitlines() if rows.exists() else []
            seen += [(now, cores, row) for line in lines[len(seen) :] if (row := json.loads(line))]
            time.sleep(0.1)
    at = {row["step"]: (now, cores) for now, cores, row in seen}
    if first not in at or last not in at:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {log.read_text()[-2000:]}")
    (start, before), (stop, after), (now, _, row) = at[first], at[last], seen[0]
    waits = sum(row["time/data"] for _, _, row in seen if first < row["step"] <= last)
    images, steps = batch * (last - first), last - first
    return {
        "images/s": images / (stop - start), "ms of waiting": 1e3 * waits / steps,
        "core ms an image": 1e3 * (after - before) / images,
        "s to the first step": now - row["time/step"] - row["time/data"], "GB at most": peak / 1e9,
    }  # fmt: skip


def usage(pid: int) -> tuple[float, int]:
    """Return the processor seconds so far, and the bytes (PSS), of a process and its descendants."""
    cores, memory = 0.0, 0
    for process in [first := psutil.Process(pid), *first.children(recursive=True)]:
        try:
            cores += sum(process.cpu_times()[:2])
            memory += process.memory_full_info().pss
        except psutil.Error:
            continue
    return cores, memory


def measure(loaders: Sequence[str], batch: int, rehearse: bool, rounds: int = 1) -> dict[str, list[dict[str, float]]]:
    """Return the figures of each round by the side's name; loaders that are not installed are left out."""
    first, last, images, size = (EVERY, 2 * EVERY, 32, 64) if rehearse else (FIRST, LAST, IMAGES, 224)
    keys = [*(TINY if rehearse else ("experiment=dira_moco", f"data.batch={batch}")), *ALONE, f"data.size={size}"]
    batch, found = 8 if rehearse else batch, dict[str, list[dict[str, float]]]()
    with tempfile.TemporaryDirectory() as name:
        folder, workers = Path(name), default_workers(torch.device("cuda"), len(os.sched_getaffinity(0)))
        with redirect_stdout(io.StringIO()):
            shards = make_shards(folder, images, 512, 512, workers, few=64)
        dataset = ShardedDataset.open(shards)
        (files := folder / "jpg").mkdir()
        for number in range(images):
            (files / f"{number:05d}.jpg").write_bytes(dataset.read(number))
        there = find_spec("nvidia") and find_spec("nvidia.dali")
        for turn in range(rounds):
            for loader in [one for one in loaders if one != "dali" or there]:
                run = folder / f"{loader}{turn}"
                words = [*keys, f"data.shards={shards}", f"data.loader={loader}", f"run={run}", f"steps={last}"]
                command = [sys.executable, "-m", "dira_scale.pretrain", *words, f"log_every={EVERY}"]
                found.setdefault(loader, []).append(watched(command, run / "metrics.jsonl", batch, first, last))
            (rows := folder / f"released{turn}" / "rows.jsonl").parent.mkdir()
            command = [sys.executable, "-m", "benchmarks.headline", *map(str, (files, rows, workers, last)), *keys]
            found.setdefault("released", []).append(watched(command, rows, batch, first, last))
    return found


def text(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table."""
    names = [*found["released"][0]]
    yield f"{'':<12}" + "".join(f"{name:>21}" for name in names)
    for side, rows in found.items():
        yield f"{side:<12}" + "".join(f"{np.median([row[name] for row in rows]):>21,.3g}" for name in names)


if __name__ == "__main__":
    released(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
