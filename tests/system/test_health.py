"""Runs that go wrong, and looks at runs that must not change them: real processes."""

import json
import os
from pathlib import Path

import pytest
import torch
from harness import TINY, assert_equal_runs, finish, pretrain, rows, status, weights
from omegaconf import OmegaConf
from safetensors.torch import load_file

from dira_scale.config import compose
from dira_scale.data.views import ViewSpec
from dira_scale.train import checkpoint
from dira_scale.train.inputs import Inputs

# DiRA, spoilt where the environment says: WHAT at a step of the order on a rank.
SPOILT = """
import math, os
from dira_scale.collectives import rank
from dira_scale.methods.dira import DiRA

class Spoilt(DiRA):
    def forward(self, clean, distorted, batch):
        terms = super().forward(clean, distorted, batch)
        what, step, where = os.environ.get("SPOIL", "nothing:0:0").split(":")
        if self.training and batch.step == int(step) and rank() == int(where):
            if what == "re":
                terms.losses["re"] = terms.losses["re"] + math.nan
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
from dira_scale.methods.method import Terms
from dira_scale.methods.simsiam import SimSiam

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
LENGTHS = ["stages.di.epochs=0.4", "stages.dir.epochs=1.6", "stages.dira.epochs=0.8"]  # 2, 8 and 4 steps
SELDOM = [*LENGTHS, "checkpoint.every=4", "log_every=1000", "method._target_=spoilt.Spoilt"]


@pytest.fixture
def spoilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "spoilt.py").write_text(SPOILT)
    (tmp_path / "modules" / "collapsing.py").write_text(COLLAPSING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return monkeypatch


def test_a_term_that_is_no_number_on_one_rank_ends_both_and_the_run_goes_on_from_before(
    shards: Path, tmp_path: Path, spoilt: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    spoilt.setenv("SPOIL", "re:5:1")
    printed = finish(pretrain(run, shards, *SELDOM, ranks=2), code=1)
    told = [line for line in printed.splitlines() if "no number" in line]
    assert len(told) == 1 and "NotANumberError" not in printed  # the traceback is the launcher's own
    for words in ("pretrain: step 6: loss/re is no number on rank 1", "rank-1/batch.json", "of step 4 is sound"):
        assert words in told[0]
    ended = status(run)
    assert (ended["state"], ended["exit_code"], ended["step"]) == ("failed", 1, 8)
    assert "step 6: loss/re is no number on rank 1" in ended["reason"]
    assert checkpoint.latest(run).name == "000000004"
    assert all(tensor.isfinite().all() for tensor in weights(run).values())

    spec = ViewSpec(**{k: v for k, v in OmegaConf.load(run / "config.yaml").views.items() if k == "count"}, size=32)
    data = OmegaConf.to_object(compose("pretrain", [*TINY, f"data.shards={shards}"])).data
    keys = []
    for rank in (0, 1):
        folder = run / "nan" / "step-000000006" / f"rank-{rank}"
        tensors, row = load_file(folder / "batch.safetensors"), json.loads((folder / "batch.json").read_text())
        expected = next(Inputs(data, spec, 0, rank, 2, (8,)).train(8).iterate(5, 6))
        assert torch.equal(tensors["index"], expected.index)
        assert all(torch.equal(tensors[f"views.{i}"], view) for i, view in enumerate(expected.views))
        assert torch.equal(tensors["distortions.1.sigma"], expected.distortions[1].sigma)
        assert row["broken"] == {"loss/re": [1]} and row["step"] == 6
        assert (row["losses"]["loss/re"] == "nan") == (rank == 1) and isinstance(row["losses"]["loss/di"], float)
        keys += [image["key"] for image in row["images"]]
    assert len(set(keys)) == 8

    spoilt.delenv("SPOIL")
    assert "from step 4 of 14" in finish(pretrain(run, shards, *SELDOM, ranks=2))
    assert status(run)["state"] == "done"


@pytest.mark.parametrize(
    ("what", "step", "words", "sound"),
    [
        ("gradient", 5, "step 6: gradient is no number, though every loss is one", "000000004"),
        pytest.param(
            "discriminator", 12, "step 13: loss/discriminator is no number", "000000012", marks=pytest.mark.system
        ),
    ],
)
def test_a_gradient_or_a_discriminator_that_is_no_number_is_told(
    shards: Path, tmp_path: Path, spoilt: pytest.MonkeyPatch, what: str, step: int, words: str, sound: str
) -> None:
    spoilt.setenv("SPOIL", f"{what}:{step}:0")
    assert words in finish(pretrain(tmp_path / "run", shards, *SELDOM), code=1)
    assert checkpoint.latest(tmp_path / "run").name == sound
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        pytest.param(1, [], marks=pytest.mark.system),
        (2, ["data.batch=16", "model.bn_groups=4", "parallel.accumulate=2", "precision=bf16",
             "parallel.checkpoint_activations=true"]),
    ],
    ids=["plain", "two ranks, accumulation, bf16, activation checkpointing"],
)  # fmt: skip
def test_looking_changes_nothing(shards: Path, tmp_path: Path, ranks: int, overrides: list[str]) -> None:
    for every in (1, 1000):
        finish(pretrain(tmp_path / f"{every}", shards, *LENGTHS, *overrides, f"health.every={every}", ranks=ranks))
    assert_equal_runs(tmp_path / "1", tmp_path / "1000")
    seen = {
        row["stage"]: {key.removeprefix("health/") for key in row if "health/" in key} for row in rows(tmp_path / "1")
    }
    spread = {"std", "rank", "alignment", "uniformity", "features_std", "features_rank"}
    assert seen["di"] == spread | {"gradient/di"}
    assert seen["dir"] == spread | {"gradient/di", "gradient/re", "psnr", "ssim"}
    assert seen["dira"] == seen["dir"] | {"gradient/ad", "discriminator"}
    last = rows(tmp_path / "1")[-1]
    assert last["health/gradient/di"] > 0 < last["health/gradient/ad"] < last["health/gradient/re"]
    assert not any("health/" in key for row in rows(tmp_path / "1000")[1:] for key in row)  # but the first


@pytest.mark.usefixtures("spoilt")
def test_a_run_that_collapses_is_told_so_once_everywhere(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    method = ["method=simsiam", "~method.base", "method.dim=64", "method.bottleneck=32"]
    lengths = ["stages.di.epochs=8", "stages.dir.epochs=0", "stages.dira.epochs=0", "health.every=4", "log_every=4"]
    command = pretrain(run, shards, *method, "method._target_=collapsing.Collapsing", *lengths)
    printed = finish([word for word in command if "method.base.queue" not in word and "decoder" not in word])
    [row] = [row for row in rows(run) if "warnings" in row]
    [text] = row["warnings"]
    assert text.startswith("collapse: all images' embeddings are nearly one") and row["health/std"] < 0.1
    line = f"warning, step {row['step']}: {text}"
    assert line in (run / "log.txt").read_text() and printed.count("warning, step") == 1
    assert line in printed
    knn = [row["health/knn_auc"] for row in rows(run, "val")]  # the test's images have a label
    assert knn and all(0 <= area <= 1 for area in knn)
