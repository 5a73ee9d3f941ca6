"""What curation holds in memory of a manifest: allocations at two numbers of rows, and in torture private memory."""

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import made_up_manifest
import pyarrow as pa
import pytest
from harness import finish

from dira_scale.dataset.manifest import ShardedDataset, index, index_files, parquet, scan, several
from dira_scale.shard.curate import derivation
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.stats import Stats
from dira_scale.shard.curate.subset import SubsetPart, subset
from dira_scale.shard.curate.verify import verify_shard
from dira_scale.train.data import mapped

# Bytes of a row. Subset: masks, splits, the patient's number and, of each patient, a digest; merge: two hashes; stats:
# numbers that are sorted. As Python's objects a row takes a kilobyte.
MOST = {"fraction": 50, "train": 40, "val": 10, "folds": 40, "merge": 40, "stats": 60, "verify": 1}
PER_SHARD = 2**11
WATCHED = """
import re, sys, threading, time
from pathlib import Path
from shard.curate.test_memory import commands

def watch():
    while True:
        held.append(int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
        time.sleep(0.01)

held = []
threading.Thread(target=watch, daemon=True).start()
commands(Path(sys.argv[2]), Path(sys.argv[3]))[sys.argv[1]]()
print(1024 * max(held))
"""


def commands(root: Path, out: Path) -> dict[str, Callable[[], object]]:
    def part(fraction: float = 1, folds: int | None = None, **where: str) -> Callable[[], object]:
        name = "fraction" if fraction < 1 else "folds" if folds else where["split"]
        return lambda: subset(root, out / name, SubsetPart(fraction, 0, ("train",), where, folds, 0))

    def described() -> None:
        stats = Stats(ShardedDataset.open(root))
        assert stats.splits and stats.labels and stats.attributes and stats.copies == 0

    return {
        "fraction": part(0.5), "train": part(split="train", view="PA"), "val": part(split="val"), 
        "folds": part(folds=5),
        "merge": lambda: merge([out / "train", out / "val"], out / "merged", "merged"), "stats": described,
        "verify": lambda: [verify_shard(root, f"train-{number:06d}.tar", "") for number in (0, 1)],
    }  # fmt: skip


def with_shards(root: Path, rows: int) -> Path:
    made_up_manifest.made_up(root, rows, PER_SHARD)
    for shard, size in ShardedDataset.open(root, check_shards=False).info.shards.items():
        (root / shard).touch()
        os.truncate(root / shard, size)
    return root


def test_no_command_holds_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (
        (parquet, "ROWS"),
        (derivation, "ROWS_AT_ONCE"),
        (several, "READ"),
        (index, "CHECKED"),
        (index_files, "LARGE"),
        (scan, "PART_ROWS"),
        (made_up_manifest, "GROUP"),
        (mapped, "CHUNK"),
    )
    for module, name in parts:  # what is held at once, whatever there is
        monkeypatch.setattr(module, name, 2**10)
    peaks: dict[str, list[int]] = {name: [] for name in MOST}
    for rows in (2**13, 2**15):
        root = with_shards(tmp_path / str(rows), rows)
        for name, command in commands(root, tmp_path / f"out{rows}").items():
            before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
            pa.set_memory_pool(pool)
            tracemalloc.start()
            command()
            peaks[name].append(tracemalloc.get_traced_memory()[1] + pool.max_memory())
            tracemalloc.stop()
            pa.set_memory_pool(before)
    check(peaks, 2**15 - 2**13)


@pytest.mark.system
@pytest.mark.torture
def test_private_memory_at_millions_of_rows(tmp_path: Path) -> None:
    """Within 50 MB, for what allocators keep, of the bytes a row."""
    peaks: dict[str, list[int]] = {name: [] for name in MOST}
    for rows in (10**6, 4 * 10**6):
        root = with_shards(tmp_path / str(rows), rows)
        for name in MOST:
            printed = finish([sys.executable, "-c", WATCHED, name, str(root), str(tmp_path / f"out{rows}")])
            peaks[name].append(int(printed.split()[-1]))
    check(peaks, 3 * 10**6, 50 * 10**6)


def check(peaks: dict[str, list[int]], rows: int, slack: int = 0) -> None:
    grown = {name: (large - small - slack) / rows for name, (small, large) in peaks.items()}
    assert not {name: bytes_ for name, bytes_ in grown.items() if bytes_ > MOST[name]}, peaks
