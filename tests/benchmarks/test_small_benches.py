"""Smaller benchmarks: ``embed``'s arithmetic by hand, and that the bare pass computes what is written; the process of
the other environment; ``shard`` and ``step``: both sides do the same work, and the start of a worker does not count."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_run import write

from benchmarks import embed, step
from benchmarks.peers import VARIABLE, Peers
from benchmarks.shard.speed import Mark, ShardCase, decode_and_encode, pace, recipe_of
from benchmarks.turns import Pace
from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.archive.plan import plan_shards
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.writer import sharding, write_shard
from dira_scale.base.errors import UserError

TINY = ["precision=fp32", "parallel.threads=1"]
DIRA = [*TINY, "model.decoder_channels=[32,16,16,8,8]", "method.base.queue=64"]
DINOV2 = [*TINY, "method.prototypes=32", "method.hidden=32"]
TEACHER = "method.teachers=[{weights:random,encoder:test_resnet}]"


def test_the_ratio_is_to_the_slower_half() -> None:
    result = embed.figures({"ours": [4.0, 5.0, 4.0], "bare": [3.6, 4.0, 3.8], "loader": [1.0, 5.0, 1.0]}, images=38)
    assert result["images_per_second"] == pytest.approx({"ours": 9.5, "bare": 10.0, "loader": 38.0})
    assert result["ratio"] == pytest.approx(3.8 / 4)
    assert (result["lowest"], result["highest"]) == (pytest.approx(0.9), pytest.approx(1.0))


def test_both_compute_the_same(tmp_path: Path) -> None:
    """``measure`` itself holds their features together."""
    row = embed.measure("test_resnet-32", write(tmp_path / "shards"), rounds=1, keys=["threads=1", "batch=50"])
    assert (row["case"], row["images"]) == ("test_resnet-32", 108) and row["ratio"] > 0
    json.dumps(row)


def environment(folder: Path, script: str) -> Path:
    """An environment whose Python is a shell script."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "python").chmod(0o755)
    return folder


def test_the_other_environment_is_asked_and_its_failure_said(tmp_path: Path) -> None:
    answers = """echo '{"sizes": {"x": 5}, "packages": {}}'; read line; echo '[2.0, 3.0]'; cat > /dev/null"""
    with Peers(environment(tmp_path / "good", answers), "loader", tmp_path) as peers:
        assert peers.sizes == {"x": 5} and peers.turns["x"](1.0) == Pace(2.0, 3.0)
    with pytest.raises(UserError, match="ended: no module"):
        Peers(environment(tmp_path / "bad", "echo no module >&2"), "loader", tmp_path)
    for absent in (None, tmp_path):
        with pytest.raises(UserError, match=rf"benchmarks\.peers FOLDER makes .* {VARIABLE} names it"):
            Peers(absent, "loader", tmp_path)


def test_the_bare_loop_makes_what_the_writer_stores(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 60000, (64, 50)).astype(np.uint16)).save(path)
    for codec, bits in (("png", 16), ("jpg", 8), ("jp2", 16)):
        recipe = recipe_of(ShardCase("png", codec, bits, 1))
        items = plan_shards([SourceRecord("x", path)], recipe, Hasher(PUBLIC_KEY)).items("train-000000.tar")
        shard = write_shard(tmp_path / "train-000000.tar", items, sharding(recipe), ())
        assert shard is not None and shard.rows[0]["size"] == decode_and_encode(path, recipe)


def test_the_pace_is_from_each_workers_first_mark_on() -> None:
    """One worker does 4 images in 2 s of its processor and 4 s of the clock, another one does 2 in 1 s of both."""
    item = [Mark(1, 4, 10.0, 100.0), Mark(1, 2, 11.0, 102.0), Mark(1, 2, 12.0, 104.0)]
    other, idle = [Mark(2, 9, 5.0, 100.5), Mark(2, 2, 6.0, 101.5)], [Mark(3, 4, 1.0, 1.0)]
    assert pace([*other, *reversed(item), *idle]) == (3.0 / 6, 4 / 4 + 2 / 1)


def test_looks_and_rows_count_as_often_as_a_run_has_them() -> None:
    """Turns of 2 steps: 2 s plain, 4 s with a look, 3 s with a row; the bare loop's are 1.8 s."""
    result = step.figures([4, 2, 2, 3, 4, 2, 2, 3], [1.8] * 8, steps=2, health_every=100, log_every=20)
    assert result["seconds"] == pytest.approx(1 + 2 / 100 + 1 / 20)
    assert result["bare_seconds"] == pytest.approx(0.9)
    assert result["ratio"] == result["lowest"] == result["highest"] == pytest.approx(0.9 / 1.07)
    assert (result["look"], result["row"]) == (pytest.approx(2 / 1.07), pytest.approx(1 / 1.07))


def test_loops_that_differ_are_not_compared() -> None:
    step.check_losses({"loss": 1.0005, "grown": 7.0}, {"loss": 1.0}, 1e-3)
    with pytest.raises(SystemExit, match=r"differ in loss: 1\.002 and 1"):
        step.check_losses({"loss": 1.002}, {"loss": 1.0}, 1e-3)


@pytest.mark.system
@pytest.mark.parametrize(
    ("case", "extra"),
    [
        (step.StepCase("test_resnet", 32, 4), DIRA),
        (step.StepCase("test_vit", 64, 8, ("experiment=small_dinov2", *step.DINOV2)), DINOV2),
        (replace(step.CPU[3], batch=4), DINOV2),
        (step.StepCase("test_resnet", 64, 8, (*step.DISTIL, TEACHER)), [*TINY, "method.hidden=32"]),
    ],
    ids=["dira_moco", "dinov2", "gram", "distil"],
)
def test_both_loops_compute_the_same(case: step.StepCase, extra: list[str]) -> None:
    """The trainer with all that it does, and the bare loop: ``measure`` itself holds their first losses together."""
    row = step.measure(case, rounds=1, steps=1, extra=extra)
    assert row["case"] == case.name and row["bare_images_per_second"] > 0
    assert row["ratio"] == pytest.approx(row["bare_seconds"] / row["seconds"])
    json.dumps(row)
