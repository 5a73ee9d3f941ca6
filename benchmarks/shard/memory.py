"""Memory of one conversion, in its own process with its workers."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

KEY = {"DIRA_SCALE_HASH_KEY": "a benchmark's key, of no secret"}


def memory(folder: Path, records: int, workers: int) -> dict[str, float]:
    """Peak resident memory in MB and seconds of one conversion of ``records`` tiny images."""
    images = folder / f"images{records}"
    images.mkdir()
    rng = np.random.default_rng(0)
    for kind in range(16):  # links to few files: a file system has room for these
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{kind}.png")
    with (folder / f"{records}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "patient", "nodule", "mass"])
        for number in range(records):
            path = images / f"{number // 1000:04d}" / f"im{number:08d}.png"
            path.parent.mkdir(exist_ok=True)
            os.link(folder / f"{number % 16}.png", path)
            table.writerow([path.relative_to(images), f"P{number // 3}", number % 2, ""])
    words = [
        "recipe=folder", f"recipe.images={images}", f"recipe.labels={folder / f'{records}.csv'}", "recipe.codec=npy",
        "recipe.min_side=1", f"out={folder / f'out{records}'}", f"workers={workers}", "recipe.shard_size=1000",
    ]  # fmt: skip
    began, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "dira_scale.shard", *words], env=os.environ | KEY)
    try:
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    return {"records": records, "peak_mb": peak / 1e6, "seconds": time.monotonic() - began}


def _resident(pid: int) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # between two looks
    return total
