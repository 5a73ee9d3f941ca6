"""The data of the system tests, made by the sharding command from random images, and a SLURM."""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import dev_cluster as slurm
import numpy as np
import pytest
from harness import EACH, SECONDS, finish, job, pretrain
from needs import skip_without
from PIL import Image


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 12 validation images of 48 x 40 pixels: ellipses on slopes, each image unlike the others."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient", "split", "odd"])
        for i in range(52):
            Image.fromarray(_picture(generator)).save(folder / f"{i:03d}.png")
            writer.writerow([f"{i:03d}.png", f"patient{i:03d}", "train" if i < 40 else "val", i % 2])
    out = tmp_path_factory.mktemp("shards") / "noise"
    key = {"DIRA_SCALE_HASH_KEY": "00" * 32}
    arguments = ["recipe=folder", f"recipe.images={folder}", f"recipe.labels={folder / 'labels.csv'}", f"out={out}"]
    rest = ["recipe.name=noise", "recipe.licence=none", "recipe.columns={file: file, patient: patient, split: split}"]
    with job([sys.executable, "-m", "dira_scale.shard", *arguments, *rest, "workers=1"], **key) as process:
        assert process.wait(SECONDS) == 0, process.printed()
    return out


@pytest.fixture(scope="session")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process without a break: three stages of two steps, and all their checkpoints."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    finish(pretrain(run, shards, *EACH))
    return run


@pytest.fixture(scope="session")
def unbroken_pair(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes."""
    run = tmp_path_factory.mktemp("unbroken_pair") / "run"
    finish(pretrain(run, shards, *EACH, ranks=2))
    return run


@pytest.fixture(scope="session")
def raised() -> Iterator[slurm.DevCluster]:
    """Skips where there can be no SLURM."""
    skip_without("slurm", slurm.missing())
    with slurm.raised() as cluster:
        yield cluster


@pytest.fixture
def dev_cluster(raised: slurm.DevCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm.DevCluster]:
    """A real SLURM with all its daemons and no job; SLURM's commands find it."""
    monkeypatch.setenv("SLURM_CONF", raised.environment["SLURM_CONF"])
    raised.up()
    yield raised
    raised.up()
    raised.calm()


def _picture(generator: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[-1:1:48j, -1:1:40j]
    picture = generator.uniform(20, 200) + generator.uniform(-40, 40) * y + generator.uniform(-40, 40) * x
    for _ in range(generator.integers(2, 6)):
        (cy, cx), (ry, rx) = generator.uniform(-1, 1, 2), generator.uniform(0.1, 0.7, 2)
        picture[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] += generator.uniform(-120, 120)
    return picture.clip(0, 255).astype(np.uint8)
