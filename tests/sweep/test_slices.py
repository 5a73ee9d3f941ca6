"""A sharding in slices, by processes of their own, against one machine's."""

import fcntl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from dira_scale import shard, sweep
from dira_scale.config.compose import compose
from dira_scale.storage.owned import own
from dira_scale.sweep import local, watch
from dira_scale.sweep.expand import expand
from dira_scale.sweep.records import SweepFolder

SWEEP = """
name: sliced
phases:
  shards:
    command: shard
    slices: 2
    set: {recipe: folder, recipe.images: IMAGES, recipe.name: mine, recipe.shard_size: 3, recipe.min_side: 8,
      workers: 1}
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.system  # slices in processes of their own: tests/archive/test_slices.py; what failed: test_local.py
def test_slices_are_one_machines_dataset_and_only_those_that_failed_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Takes some 10 s: seven processes that start."""
    monkeypatch.setattr(local, "LOOK", 0.05)
    monkeypatch.setattr(watch, "LOOK", 0.05)
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", "a key for tests only, of some length")
    images, mine = tmp_path / "images", tmp_path / "own" / "sweep"
    images.mkdir()
    mine.mkdir(parents=True)
    for n in range(9):
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (16, 16), np.uint8)).save(images / f"{n}.png")
    (mine / "sliced.yaml").write_text(SWEEP.replace("IMAGES", str(images)))
    words = ["--config-dir", str(mine.parent), "sweep=sliced", f"folder={tmp_path}/s", "cluster.parallel=2"]

    config: Any = OmegaConf.to_object(compose("sweep", words))
    folder = SweepFolder(tmp_path / "s")
    *_, joined = expand(config.sweep, folder.path, {}, [mine.parent])
    own(folder.path, "a sweep", "folder")
    held = folder.output(joined) / ".partial" / "2-of-2" / "lock"
    held.parent.mkdir(parents=True)
    with held.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as if another process wrote this slice
        assert sweep.main(words) == 1
    codes = {run_id: [item.exit_code for item in folder.tries(run_id)] for run_id in folder.runs}
    assert list(codes.values()) == [[0], [2], []] and not (folder.path / joined.output / "manifest.parquet").exists()
    assert sweep.main(words) == 0
    codes = {run_id: [item.exit_code for item in folder.tries(run_id)] for run_id in folder.runs}
    assert list(codes.values()) == [[0], [2, 0], [0]]

    plain = [word for word in joined.words if not word.startswith("out=")]
    assert shard.main([*plain, f"out={tmp_path}/one"]) == 0
    assert contents(folder.path / joined.output) == contents(tmp_path / "one")
