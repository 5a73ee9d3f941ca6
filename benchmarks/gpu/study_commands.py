"""What the study runs: settings of the small experiments (slurm/sweep/dira2d_small.yaml), rates scaled by the batch."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.study_table import PARTS, PROBED, SHARES

# Recipe -> folder and list of a set in DATA. At 144 pixels and JPEG's quality of 70 all together are 19.5 MiB.
SETS = {
    "pediatric_pneumonia": ("pediatric_pneumonia_224", "labels.csv"),
    "shenzhen": ("shenzhen_256", "list.csv"),
    "chestxray14_small": ("chestxray14_nih1000_64", "labels.csv"),
}
STORED = "recipe.max_side=144", "recipe.codec=jpg", "recipe.quality=70"
STAGES = {"moco": {"di": 24, "dir": 0, "dira": 0}, "dira": {"di": 10, "dir": 10, "dira": 4}}  # of 24 epochs
ENCODER = "model.encoder=resnet18"
SIZE, BATCH, SEEDS, RANDOM, DRAWS = 128, 128, 2, 5, 10
TRAINED = (
    "experiment=small", "optim.reference_batch=32", "model.bn_groups=4", "checkpoint.every=500",
    "validate.restored=128",
)  # fmt: skip
LUNGS = (
    "task=masks", "preset=images_small", "data.fraction=0.024", "optim.choose=[0.03,0.1,0.3]",
    "optim.choose_share=0.5",
)  # fmt: skip
FROZEN = dict(zip(PARTS, (("frozen=encoder", "task.decoder=linear"), ("frozen=network",)), strict=True))
TINY = (
    "model.encoder=test_resnet", "model.decoder_channels=[32,16,16,8,8]", "model.bn_groups=1", "precision=fp32",
    "validate.batches=1",
)  # fmt: skip
Words = dict[str, list[str]]  # a command by the name of its run


def folder() -> Path:
    """Where shards and runs are."""
    return Path(os.environ.get("DIRA_SCALE_STUDY") or "out/study").resolve()


def shard(data: Path, out: Path) -> int:
    """Make the shards; the exit code of the first command that fails, which says why, or 0."""
    for recipe, (name, listed) in SETS.items():
        where = f"recipe.images={data / name / 'images'}", f"recipe.labels={data / name / listed}"
        command = [sys.executable, "-m", "dira_scale.shard", f"recipe={recipe}", f"out={out / 'shards' / recipe}"]
        if code := subprocess.run([*command, *where, *STORED]).returncode:
            return code
    return 0


class Commands:
    """Of the study in ``root``. A rehearsal's are tiny, of one seed."""

    def __init__(self, root: Path, rehearse: bool) -> None:
        self.shards, self.runs, self.rehearse = root / "shards", root / ("rehearsed" if rehearse else "runs"), rehearse
        self.size, self.batch, self.seeds, self.random, self.draws = (
            (32, 32, 1, 1, 2) if rehearse else (SIZE, BATCH, SEEDS, RANDOM, DRAWS)
        )
        workers = max(1, (os.cpu_count() or 1) // (len(STAGES) * self.seeds) - 1)
        self.common = [f"data.size={self.size}", f"data.workers={workers}", "parallel.threads=1", "tracker=none"]
        self.common += TINY if rehearse else ()
        self.encoder = TINY[0] if rehearse else ENCODER

    def pretraining(self, epochs: float, runs: Path) -> Words:
        """Every method and seed, for as many epochs, into ``runs``."""
        sets = ",".join(str(self.shards / recipe) for recipe in SETS)
        lengths = f"optim.warmup_epochs={epochs / 48}", f"validate.every={math.ceil(epochs / 6)}"
        return {
            f"{method}-{seed}": [
                "pretrain", *TRAINED, *self.common, *lengths, f"data.batch={self.batch}", f"data.shards=[{sets}]",
                f"seed={seed}", f"run={runs / f'{method}-{seed}'}",
                *(f"stages.{stage}.epochs={epochs * share / 24}" for stage, share in shares.items()),
            ]
            for method, shares in STAGES.items() for seed in range(self.seeds)
        }  # fmt: skip

    def judging(self, trained: Sequence[str]) -> Words:
        """Probes, of all that have ``trained`` together: made again once others have. Then lungs."""
        of = [f"run=[{','.join(str(self.runs / name) for name in trained)}]"] if trained else [self.encoder]
        made = {
            f"probe-{recipe}-{len(trained)}": [
                "probe", *of, f"data.size={self.size}",
                f"data.shards={self.shards / recipe}", f"fractions=[{','.join(map(str, SHARES))}]", "probes=[linear]",
                f"draws={self.draws}", f"random_encoders={self.random}",
                f"out={self.runs / f'probe-{recipe}-{len(trained)}'}",
            ]
            for recipe, _ in PROBED.values()
        }  # fmt: skip
        starts = {name: [f"init={self.runs / name}"] for name in trained}
        starts |= {f"random-{seed}": ["init=random", f"seed={seed}"] for seed in range(self.random)}
        few = ["stages.finetune.epochs=3", "optim.choose=null"] if self.rehearse else []
        return made | {
            (name := f"lungs-{part}-{start}"): [
                "finetune", *LUNGS, *frozen, *self.common, *few, *init, f"data.shards={self.shards / 'shenzhen'}",
                f"run={self.runs / name}",
            ]
            for part, frozen in FROZEN.items() for start, init in starts.items()
        }  # fmt: skip
