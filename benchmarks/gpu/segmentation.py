"""Fine-tuning of volumes and nnU-Net for equal minutes, on whole phantom CT: benchmarks/segmentation on the GPU.

Each side trains for three tenths of the part's time; the rest is for drawing, trying, compiling and predicting. nnU-Net
takes part where its environment is named (benchmarks/peers.py).
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import items
from benchmarks.gpu.report import Job, figure

SPLITS = "recipe.splits={train: 0.6, val: 0.15, test: 0.25}"


def compare(job: Job) -> dict[str, Any]:
    """The figures of each side, after one sitting of each."""
    from benchmarks.segmentation.__main__ import arguments, sittings  # need pyarrow
    from benchmarks.segmentation.sides import CORES
    from dira_scale.archive.phantom.ct.dataset import generate  # needs nibabel
    from dira_scale.base.errors import UserError
    from dira_scale.shard import main as shard

    patients, size = (6, 48) if job.rehearse else (40, 192)
    minutes = 0.02 if job.rehearse else 0.3 * job.seconds / 60
    with tempfile.TemporaryDirectory() as name:
        drawn = generate(Path(name, "drawn"), patients, kind="abdomen", format="nifti", size=size, workers=CORES)
        words = ["recipe=phantom_abdomen", f"recipe.images={drawn}", "recipe.secret=false", SPLITS]
        if code := shard([*words, f"out={name}/shards"]):
            raise UserError(f"sharding the phantoms ended with {code}")
        given = [f"{name}/shards", "--task", "task=phantom_abdomen", "--count", "lesion", "--seeds", "0"]
        given += ["--minutes", f"{minutes}", "--folder", f"{name}/bench", "--ours", "validate.volumes=4"]
        rows = sittings(arguments([*given, "--device", "cpu" if job.rehearse else "cuda"]))
    return {
        "figures": {
            f"{row['side']}: {what}": figure(value, "", note=f"{row['steps']} steps, {row['seconds'] / 60:.1f} min")
            for row in rows for what, value in row["scores"].items() if value is not None
        }
    }  # fmt: skip


def run(job: Job) -> bool:
    """All of it."""
    return items.run(job, {"whole phantom CT": partial(compare, job)})
