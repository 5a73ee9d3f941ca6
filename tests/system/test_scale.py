"""What every process does of a large dataset is done once: ten million made-up rows, a million made-up files."""

import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import finish
from PIL import Image
from shard.curate.test_memory import commands, with_shards

from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.dataset.manifest.index_files import write_index
from dira_scale.train.data.groups import Groups
from dira_scale.train.data.order import Order
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.selection import select

SLACK = 50  # MB that a process may hold more of four times the rows
# Bytes a row that grow all the same, in the one process of a node that makes what the others map.
GROWS = {"selection made": 70, "groups made": 30}
WATCHED = "import sys; from system.test_scale import watched; watched(*sys.argv[1:])"


def works(root: Path) -> dict[str, Callable[[], object]]:
    """What processes of a run do, each by itself, in this order."""

    def indexed() -> None:
        write_index(root / "manifest.parquet", DatasetInfo.read(root / "dataset.json"), root / "manifest.index")

    def opened() -> None:
        ShardedDataset.open(root, check_shards=False)

    def chosen() -> None:
        dataset = ShardedDataset.open(root, check_shards=False)
        selection = select([dataset], "train", (1.0,), 0.1, 0, None)
        assert selection
        order = Order(selection.sizes, 0, 4096, selection.weights, identity="x", selection=selection)
        order.positions(range(10, 18), 5, 64)

    def grouped() -> None:
        samples = Samples([ShardedDataset.open(root, check_shards=False)], "train")
        assert Groups(samples, "patient").others(np.arange(64)).tolist() == [3] * 64

    return {
        "index": indexed, "first opening": opened, "later opening": opened, "selection made": chosen,
        "selection": chosen, "groups made": grouped, "groups": grouped,
    }  # fmt: skip


def held() -> float:
    """Anonymous memory of this process, MB."""
    return int(re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1000


def watched(name: str, root: str, out: str) -> None:
    """Print how much more than before a work held at most, in MB, and its seconds of processor time."""
    work = (commands(Path(root), Path(out)) | works(Path(root)))[name]
    done, seen = threading.Event(), [held()]

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(held())

    watcher, began = threading.Thread(target=watch, daemon=True), time.process_time()
    watcher.start()
    work()
    took = time.process_time() - began
    done.set()
    watcher.join()
    print(f"{max(seen) - seen[0]:.0f} {took:.2f}")


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_what_grows_with_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private memory of each process, for docs/evidence/scale.md."""
    found = dict[str, list[list[float]]]()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parents[2]))))
    sizes = 10**6, 4 * 10**6, 10**7
    for rows in sizes:
        root, out = with_shards(tmp_path / f"rows{rows}", rows), tmp_path / f"out{rows}"
        (root / "manifest.index").unlink()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{rows}"))  # where nothing was opened yet
        for name in (*works(root), "fraction", "stats"):
            printed = finish([sys.executable, "-c", WATCHED, name, str(root), str(out)], seconds=1800, fresh=True)
            found.setdefault(name, []).append([*map(float, printed.splitlines()[-1].split())])
    with capsys.disabled():
        print(f"\n{'MB and s of':20}", *(f"{rows:>16,}" for rows in sizes))
        for name, figures in found.items():
            print(f"{name:20}", *(f"{memory:>8.0f}{took:>8.2f}" for memory, took in figures))
    for name in works(tmp_path):
        (few, _), (many, _), _ = found[name]
        assert many - few <= SLACK + 3 * GROWS.get(name, 0), name


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_a_million_files_in_an_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four tasks list them, one plans, one writes a shard of the plan; the files are links to a thousand."""
    pixels = Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    for folder in range(1000):
        (below := tmp_path / "images" / f"{folder:04d}").mkdir(parents=True)
        pixels.save(below / "0000.png")
        for number in range(1, 1000):
            os.link(below / "0000.png", below / f"{number:04d}.png")
    told = list[str]()
    recipe = ["recipe=folder", f"recipe.images={tmp_path / 'images'}", f"out={tmp_path / 'out'}", "workers=2"]
    for words in (
        *(["list", *recipe, f"slice={n}/4"] for n in (1, 2, 3, 4)),
        ["list", *recipe],
        [*recipe, "slice=7/1000"],
    ):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        finish([sys.executable, "-m", "dira_scale.shard", *words], seconds=3000, fresh=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        told.append(f"{took:8.1f} s, at most {after.ru_maxrss / 1000:.0f} MB: shard {' '.join(words[:1] + words[-1:])}")
    with capsys.disabled():
        print("", *told, sep="\n")
    assert (tmp_path / "out" / "train-000006.tar").is_file()
