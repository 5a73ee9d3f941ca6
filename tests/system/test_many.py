"""Many processes on one machine, which do everything but compute: what each costs, against the number of processes."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import SMALL, assert_equal_runs, finish, job, pretrain, status
from PIL import Image
from system.faults import Job

pytestmark = [pytest.mark.torture, pytest.mark.timeout(3600)]
RANKS = (8, 16, 32, 64)
WORDS = [SMALL, "data.batch=128", "method.base.queue=128", "model.bn_groups=64", "validate.batch=12", "parallel=fsdp2"]
WORDS += ["checkpoint.every=1", "checkpoint.keep=9"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """128 training and 12 validation images of noise."""
    folder, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("shards") / "noise"
    generator = np.random.default_rng(0)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "patient", "split"])
        for i in range(140):
            Image.fromarray(generator.integers(0, 256, (40, 48), dtype=np.uint8)).save(folder / f"{i:03d}.png")
            writer.writerow([f"{i:03d}.png", f"patient{i:03d}", "train" if i < 128 else "val"])
    words = ["recipe=folder", f"recipe.images={folder}", f"recipe.labels={folder / 'labels.csv'}", f"out={out}"]
    words += ["recipe.name=noise", "recipe.licence=none", "workers=1"]
    words.append("recipe.columns={file: file, patient: patient, split: split}")
    with job([sys.executable, "-m", "dira_scale.shard", *words], DIRA_SCALE_HASH_KEY="00" * 32) as process:
        assert process.wait(300) == 0, process.printed()
    return out


def test_what_a_process_costs_grows_as_counted(images: Path, tmp_path: Path) -> None:
    """From its start to its first checkpoint's end. The table of docs/evidence/scale.md is printed."""
    parts: dict[int, list[int]] = {}
    for ranks in RANKS:
        out = tmp_path / str(ranks)
        out.mkdir()
        before = f"import system.counted\nsystem.counted.install({str(out)!r})"
        finish(pretrain(out / "run", images, *WORDS, "steps=1", ranks=ranks), before=before)
        rows = [json.loads(path.read_text()) for path in out.glob("*.json")]
        most = {name: max(row.get(name, 0) for row in rows[1:]) for name in rows[0]}
        print(ranks, {name: [min(row.get(name, 0) for row in rows), most[name]] for name in most})
        assert len(rows) == ranks
        first, rest = rows[-1], [row for row in rows if row["sources"] == min(r["sources"] for r in rows)]
        # Three groups: connections to all others and a listening socket each; from 64 on to some, by rings and trees.
        others = ranks - 1 if ranks < 64 else 2 + 2 * ranks.bit_length()
        for row in rest:
            assert row["connections"] <= 3 * (others + 1) + 32
            assert row["requests"] <= 6 * others + 48
        assert len(rest) >= ranks - 1 and first  # one process of the machine reads the sources
        assert max(row["files"] for row in rest) <= 300 and max(row["read"] for row in rest) <= 4e6
        assert max(row["private"] for row in rows) <= 1.2 * min(row["private"] for row in rows)
        parts[ranks] = [path.stat().st_size for path in (out / "run" / "checkpoints").glob("0*/*.safetensors")]
        assert len(parts[ranks]) == ranks
    for ranks in RANKS[1:]:  # each writes its share, and the names of what is in it
        assert max(parts[ranks]) <= max(parts[RANKS[0]]) * RANKS[0] / ranks + 100_000


def test_sixty_four_processes_lose_one_and_go_on(images: Path, tmp_path: Path) -> None:
    run, words = tmp_path / "run", [*WORDS, "parallel.shard=8"]
    finish(pretrain(tmp_path / "unbroken", images, *words, ranks=64))
    with Job(pretrain(run, images, *words, ranks=64), run) as many:
        many.wait_until((run / "checkpoints" / "LATEST").exists)
        many.rank(37).kill()
        assert many.end() != 0
    assert status(run)["state"] == "failed"
    finish(pretrain(run, images, *words, ranks=64))
    assert_equal_runs(run, tmp_path / "unbroken")
