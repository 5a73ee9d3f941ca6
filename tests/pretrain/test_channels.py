"""Volumes of two channels through a whole pretraining, its pictures and its features; what does not fit is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from train.data.volumes import WORDS, make, random_volumes
from train.methods.masked import UNET3D, masked

from dira_scale.embed import main as embed
from dira_scale.pretrain import main
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.views import draw
from dira_scale.train.methods import check_batch, construct
from dira_scale.train.models.weights import trained_encoder, trained_network
from dira_scale.train.runs.reader import RunReader

RANGES = [((-1024.0, 0.0), (3000.0, 2000.0))] * 5 + [((-1024.0, np.nan), (3000.0, np.nan))]
TINY = [
    *WORDS, "data.size=[8,16,16]", "data.batch=4", "data.workers=1", "parallel.threads=1", "precision=fp32",
    "log_every=1", "tracker=none", "stages.di.epochs=1", "stages.dir.epochs=1", "stages.dira.epochs=1",
    "optim.warmup_epochs=0", "validate.restored=2", "validate.batch=2", "views.pair=image",
]  # fmt: skip


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return made(tmp_path / "toy", "T1", "T2")


def made(root: Path, *channels: str) -> Path:
    volumes = random_volumes(6, channels=2)
    volumes[5][1] = 0
    return make(root, volumes, val=2, ranges=RANGES, channels=channels).root


@pytest.mark.system
def test_two_channels_are_learned_restored_drawn_and_embedded(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    words = [*TINY, f"data.shards={shards}", f"run={run}", "channels=2", "views.channel_dropout=0.3"]
    assert main(words) == 0
    reader = RunReader(run)
    losses = [row["loss"] for row in reader.rows() if "loss" in row]
    assert losses and np.isfinite(losses).all()
    described = reader.description
    assert (described.network.channels, described.input.channels, described.output.channels) == (2, 2, 2)
    tensors, _, _ = reader.load(None)
    network = trained_network(described, trained_encoder(described, tensors), tensors)
    assert network(torch.rand(1, 2, 8, 16, 16)).shape == (1, 2, 8, 16, 16)
    # of the two held-out volumes three channels are there: a row for each axis
    table = json.loads((run / "pictures/restoration.json").read_text())
    assert {row["n"] for row in table} == {3}
    heights = [Image.open(run / f"pictures/{stage}.png").height for stage in ("dir", "dira")]
    assert heights[0] == heights[1]
    out = tmp_path / "features"
    assert embed([f"run={run}", f"data.shards={shards}", f"out={out}", "threads=1", "data.workers=1"]) == 0
    rows = [row for part in sorted(out.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert len(rows) == 6 and np.isfinite([row["embedding"] for row in rows]).all()
    assert described.data.channels == ("T1", "T2")
    swapped = made(tmp_path / "swapped", "T2", "T1")
    again = [*TINY, f"data.shards={swapped}", f"run={tmp_path / 'again'}", "channels=2", f"model.weights={run}"]
    features = [f"run={run}", f"data.shards={swapped}", f"out={tmp_path / 'no'}"]
    for command, typed in ((main, again), (embed, features)):
        assert command(typed) == 2
        assert "has the channels T2, T1, and " in (error := capsys.readouterr().err) and "has learned T1, T2" in error


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "MAE"}, {"_target_": "MAE", "norm_target": True}, {"_target_": "ModelsGenesis"},
        {"_target_": "DiRA", "base": {"_target_": "MoCo", "queue": 8, "dim": 4}, "restoration": "mask"},
        {"_target_": "PCRL", "queue": 8, "dim": 4},
    ],
    ids=lambda node: " ".join(map(str, node.values())).partition("{")[0],
)  # fmt: skip
def test_a_channel_that_an_image_lacks_teaches_nothing(node: dict[str, Any]) -> None:
    """One of two images has no second channel, so its restored one is as it is, and has no gradient."""
    kind = replace(masked((8, 16, 16), 8, count=2 if {"base", "queue"} & node.keys() else 1), orientations=2)
    method = construct(node, UNET3D | {"norm": "instance"}, kind, channels=2)
    check_batch(method, 2, 1, 1)
    method.train().enter_stage([*method.weights])
    views = tuple(torch.rand(2, 2, *kind.sides) for _ in range(kind.count))
    for view in views:
        view[1, 1] = 0
    index, low = np.arange(2), torch.zeros(2, kind.count, 2)
    low[1, :, 1] = torch.nan
    sides = [np.full(2, side) for side in kind.sides]
    drawn = [draw(kind, 0, 0, index, index * 0, view, *sides)[1] for view in range(kind.count)]
    terms = method(views, views, Batch(views, tuple(drawn), torch.arange(2), low, low * 0 + 1, 0, 0))
    assert terms.restored is not None and terms.target is not None
    assert torch.equal(terms.restored[1, 1], terms.target[1, 1]) and not torch.equal(terms.restored[1, 0], views[0][1])
    terms.losses["re"].backward()
    (weight,) = (each for each in method.head.parameters() if each.dim() > 1)
    before = weight.grad.clone()
    assert before.flatten(1).abs().sum(1).min() > 0
    method.zero_grad()
    low[:, :, 1] = torch.nan
    method(views, views, Batch(views, tuple(drawn), torch.arange(2), low, low * 0 + 1, 0, 0)).losses["re"].backward()
    assert weight.grad[0].any() and not weight.grad[1].any()


@pytest.mark.parametrize(
    "words, printed",
    [
        ([], r"channels=1: .*toy has images of 2 channels \(T1, T2\), and Tiny3D takes 1: use channels=2"),
        (["channels=3"], r"channels=3: .*and Tiny3D takes 3: use channels=2"),
    ],
)
def test_other_channels_are_refused_before_there_is_a_run(
    shards: Path, tmp_path: Path, words: list[str], printed: str, capsys: pytest.CaptureFixture
) -> None:
    assert main([*TINY, f"data.shards={shards}", f"run={tmp_path / 'run'}", *words]) == 2
    assert not (tmp_path / "run").exists()
    assert re.search(printed, capsys.readouterr().err)
