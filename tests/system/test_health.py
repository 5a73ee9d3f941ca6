"""Runs that go wrong, and looks at runs that must not change them: real processes."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import TINY, assert_equal_runs, finish, pretrain, rows, status, weights
from omegaconf import OmegaConf
from safetensors.torch import load_file

from dira_scale.base.config.compose import compose
from dira_scale.pretrain import main
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.inputs import Inputs
from dira_scale.train.runs import checkpoint

# DiRA, spoilt where the environment says: WHAT at a step of the order on a rank. It notes which images it had then.
SPOILT = """
import json, math, os
from dira_scale.train.distributed.collectives import rank
from dira_scale.train.methods.dira import DiRA

class Spoilt(DiRA):
    def forward(self, clean, distorted, batch):
        terms = super().forward(clean, distorted, batch)
        if "SPOIL" not in os.environ:
            return terms
        what, step, where = os.environ["SPOIL"].split(":")
        if self.training == (what != "held-out") and batch.step == int(step) and rank() == int(where):
            with open(os.environ["SEEN"], "a") as seen:
                seen.write(json.dumps(batch.index.tolist()) + "\\n")
            if what in ("re", "held-out") and "re" in terms.losses:
                terms.losses["re"] = terms.losses["re"] + math.nan
            if what == "overflow":
                terms.losses["di"] = terms.losses["di"] * 1e38 * 1e38
            if what == "gradient":
                terms.losses["di"].register_hook(lambda gradient: gradient * math.nan)
            if what == "discriminator":
                terms.target = terms.target * math.nan
        return terms
"""
# What SimSiam's predictor, stop-gradient and BatchNorm are there to prevent.
COLLAPSING = '''
import torch.nn.functional as F
from torch import nn
from dira_scale.train.methods.method import Terms
from dira_scale.train.methods.simsiam import SimSiam

class Collapsing(SimSiam):
    """Draws an image's two views together, and nothing apart."""

    def __init__(self, encoder, views, dim, bottleneck):
        super().__init__(encoder, views, dim, bottleneck)
        self.projector = nn.Linear(encoder.channels[-1], dim)

    def forward(self, clean, distorted, batch):
        pyramids = tuple(self.encoder(view) for view in distorted)
        first, second = (self.projector(pyramid[-1].mean(dim=(2, 3))) for pyramid in pyramids)
        loss = 1 - F.cosine_similarity(first, second).mean()
        return Terms({"di": loss}, pyramids=pyramids, embeddings=(first.detach(), second.detach()))
'''
# 2, 8 and 4 steps of 8 images.
LENGTHS = ["stages.di.epochs=0.4", "stages.dir.epochs=1.6", "stages.dira.epochs=0.8", "model.encoder=test_resnet"]
SELDOM = [*LENGTHS, "checkpoint.every=4", "log_every=4", "method._target_=spoilt.Spoilt"]


@pytest.fixture
def spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "spoilt.py").write_text(SPOILT)
    (modules / "collapsing.py").write_text(COLLAPSING)
    monkeypatch.setenv("PYTHONPATH", f"{modules}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(modules)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return monkeypatch


def inside(run: Path, shards: Path, *overrides: str) -> int:
    """The exit code of a run in this process."""
    return main(pretrain(run, shards, *overrides)[3:])


def saved(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return load_file(folder / "batch.safetensors"), json.loads((folder / "batch.json").read_text())


@pytest.mark.system
def test_two_ranks_end_at_a_term_that_is_no_number_and_go_on_as_a_run_that_never_broke_and_never_looked(
    shards: Path, tmp_path: Path, spoilt: pytest.MonkeyPatch
) -> None:
    """With accumulation, bf16 and activation checkpointing."""
    run, plain = tmp_path / "run", tmp_path / "plain"
    settings = [
        *SELDOM, "stages.di.epochs=1", "stages.dir.epochs=3", "stages.dira.epochs=1", "data.batch=16",
        "model.bn_groups=4", "parallel.accumulate=2", "precision=bf16", "parallel.checkpoint_activations=true",
    ]  # fmt: skip
    spoilt.setenv("SPOIL", "re:5:1")
    printed = finish(pretrain(run, shards, *settings, "health.every=1", ranks=2), code=1)
    reported = [line for line in printed.splitlines() if "not finite" in line]
    assert len(reported) == 1 and "NotANumberError" not in printed  # the traceback is the launcher's own
    assert reported[0].startswith("pretrain: step 6: loss/re is not finite on rank 1; its images: ")
    assert reported[0].endswith("rank-1/batch.json")
    (last,) = [line.removeprefix("pretrain: ") for line in printed.splitlines() if "is intact" in line]
    assert last.startswith("the checkpoint of step 4 is intact. ")  # then what bf16 may have to do with it
    assert last.endswith("docs/how-to/training.md says what to do")
    ended = status(run)
    assert (ended["state"], ended["exit_code"], ended["step"]) == ("failed", 1, 8)
    assert ended["reason"] == f"{reported[0].removeprefix('pretrain: ')}; {last}"
    assert checkpoint.latest(run).name == "000000004"
    assert all(tensor.isfinite().all() for tensor in weights(run).values())
    assert [row["step"] for row in rows(run)] == [2, 4]  # nothing that is not finite is written

    spec = ViewSpec(**{k: v for k, v in OmegaConf.load(run / "config.yaml").views.items() if k == "count"}, size=32)
    data = OmegaConf.to_object(compose("pretrain", [*TINY, f"data.shards={shards}"])).data
    keys = []
    for rank in (0, 1):
        tensors, row = saved(run / "nan" / "step-000000006" / f"rank-{rank}")
        expected = next(Inputs(data, spec, 0, rank, 2, (16,)).train(16).iterate(5, 6))
        assert torch.equal(tensors["index"], expected.index)
        assert all(torch.equal(tensors[f"views.{i}"], view) for i, view in enumerate(expected.views))
        assert torch.equal(tensors["distortions.1.sigma"], expected.distortions[1].sigma)
        assert row["broken"] == {"loss/re": [1]} and row["step"] == 6
        assert (row["losses"]["loss/re"] == "nan") == (rank == 1) and isinstance(row["losses"]["loss/di"], float)
        keys += [image["key"] for image in row["images"]]
    assert len(set(keys)) == 16

    spoilt.delenv("SPOIL")
    assert "from step 4 of 10" in finish(pretrain(run, shards, *settings, "health.every=1", ranks=2))
    assert status(run)["state"] == "done"
    finish(pretrain(plain, shards, *settings, "health.every=1000", ranks=2))
    assert_equal_runs(run, plain)
    assert_looked(run)
    assert not any("health/" in key for row in rows(plain)[1:] for key in row)  # but the first


def assert_looked(run: Path) -> None:
    seen = {row["stage"]: {key.removeprefix("health/") for key in row if "health/" in key} for row in rows(run)}
    spread = {"std", "rank", "alignment", "uniformity", "features_std", "features_rank"}
    restoration = spread | {"gradient/di", "gradient/re", "psnr", "ssim"}
    assert seen["dir"] == restoration and seen["dira"] == restoration | {"gradient/ad", "discriminator"}
    last = rows(run)[-1]
    assert last["health/gradient/di"] > 0 < last["health/gradient/ad"] < last["health/gradient/re"]


@pytest.mark.parametrize(
    ("spoil", "overrides", "words", "sound"),
    [
        ("overflow:0:0", [], "step 1: loss/di is not finite", None),
        ("gradient:5:0", ["health.every=1"], "step 6: gradient is not finite, though every loss is finite", 4),
        ("discriminator:12:0", [], "step 13: loss/discriminator is not finite", 12),
        # A stage of another batch begins with an epoch of its own: the run's step 6 is the 14th of its order.
        ("re:13:0", ["stages.dir.batch=4", "stages.dir.epochs=0.8"], "step 6: loss/re is not finite", 4),
    ],
)
def test_what_is_no_number_is_reported_with_its_images_and_a_sound_checkpoint(
    shards: Path, tmp_path: Path, spoilt: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    spoil: str, overrides: list[str], words: str, sound: int | None,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    if "stages.dir.batch=4" in overrides:  # after a resumption too
        assert inside(run, shards, *SELDOM, *overrides, "steps=3") == 0
    spoilt.setenv("SPOIL", spoil)
    assert inside(run, shards, *SELDOM, *overrides) == 1
    reported = capsys.readouterr().err
    assert words in reported and status(run)["state"] == "failed" and words in status(run)["reason"]
    if sound is None:
        assert "there is no checkpoint yet" in reported and not (run / "metrics.jsonl").exists()
    else:
        assert f"the checkpoint of step {sound} is intact" in reported and int(checkpoint.latest(run).name) == sound
        assert all(tensor.isfinite().all() for tensor in weights(run).values())
        assert all(math.isfinite(value) for row in rows(run) for value in row.values() if isinstance(value, float))
    [folder] = (run / "nan").iterdir()
    tensors, row = saved(folder / "rank-0")
    assert f"{folder}/rank-0/batch.json" in reported and words.startswith(f"step {row['step']}:")
    assert [tensors["index"].tolist()] == [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]


def test_held_out_images_whose_loss_is_no_number_are_named(
    shards: Path, tmp_path: Path, spoilt: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    spoilt.setenv("SPOIL", "held-out:1:0")  # the second of two batches
    assert inside(run, shards, *SELDOM, "validate.every=1") == 1
    folder = run / "nan" / "held-out-000000007"
    reported = capsys.readouterr().err
    assert f"step 7: loss/re of held-out images is not finite; its images: {folder}/rank-0/batch.json" in reported
    assert "the checkpoint of step 4 is intact" in reported and status(run)["exit_code"] == 1
    tensors, row = saved(folder / "rank-0")
    assert tensors["index"].tolist() == [8, 9, 10, 11] == json.loads((tmp_path / "seen").read_text().splitlines()[0])
    assert row["losses"]["loss/re"] == "nan" and [image["key"] for image in row["images"]]
    assert not (run / "checkpoints" / "BEST-dir").exists() and rows(run, "val")[-1]["stage"] == "di"


@pytest.mark.usefixtures("spoilt")
def test_a_run_that_collapses_is_told_so_once_everywhere(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    method = ["method=simsiam", "~method.base", "method.dim=64", "method.bottleneck=32"]
    lengths = ["stages.di.epochs=8", "stages.dir.epochs=0", "stages.dira.epochs=0", "health.every=4", "log_every=4"]
    lengths += ["model.encoder=test_resnet", "optim.optimizer.lr=0.01"]
    command = pretrain(run, shards, *method, "method._target_=collapsing.Collapsing", *lengths)[3:]
    assert main([word for word in command if "method.base.queue" not in word and "decoder" not in word]) == 0
    printed = capsys.readouterr().err
    [row] = [row for row in rows(run) if "warnings" in row]
    [text] = row["warnings"]
    assert text.startswith("collapse: the embeddings of all images are nearly equal") and row["health/std"] < 0.1
    line = f"warning: step {row['step']}: {text}"
    assert line in (run / "log.txt").read_text() and printed.count("warning: step") == 1
    assert line in printed
    knn = [row["health/knn_auc"] for row in rows(run, "val")]  # the test's images have a label
    assert knn and all(0 <= area <= 1 for area in knn)
