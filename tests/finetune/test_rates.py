"""Rates chosen on the validation split; rates of their own for blocks and head."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from finetune.conftest import TINY
from harness import rows
from omegaconf import OmegaConf
from torch import nn

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.finetune import main
from dira_scale.finetune.blueprint import FinetuneBlueprint
from dira_scale.report.content import read_run
from dira_scale.report.page import render
from dira_scale.train.engine import optim
from dira_scale.train.engine.loop import Loop
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.runs.identity import execution, identity
from dira_scale.train.runs.reader import RunReader

RATES = 1e-5, 3e-3


def choose(run: Path, shards: Path, *words: str) -> int:
    chosen = "validate.norm_passes=2", "optim.choose=[1e-5,3e-3]", "optim.choose_share=0.5", "stages.finetune.epochs=4"
    task = "task=masks", "task.classes={upper: 1, lower: 2}"
    return main([*TINY, f"data.shards={shards}", f"run={run}", *task, *chosen, *words])


@pytest.mark.usefixtures("libraries")
def test_the_rate_of_the_best_validation_is_taken_and_finished_candidates_are_kept(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second candidate is interrupted first. Candidates see no test split, and have the run's seed and order."""
    run, train = tmp_path / "run", Loop.train

    def interrupted(loop: Loop, signals: Any) -> str:
        signals.received = signal.SIGTERM if loop.folder.name == "0.003" else 0
        return train(loop, signals)

    monkeypatch.setattr(Loop, "train", interrupted)
    assert choose(run, discs) == 75 and not (run / "config.yaml").exists()
    done = {file: file.stat().st_mtime_ns for file in run.glob("rates/1e-05/checkpoints/*/*")}
    first = rows(run / "rates" / "1e-05")
    begun: dict[str, int] = {}

    def noted(loop: Loop, signals: Any) -> str:
        begun[loop.folder.name] = loop.state.step
        return train(loop, signals)

    monkeypatch.setattr(Loop, "train", noted)
    assert done and choose(run, discs) == 0 and (begun["1e-05"], begun["run"]) == (6, 0)
    assert not [*run.glob("rates/*/checkpoints")]  # nothing reads them any more

    folders = {rate: run / "rates" / f"{rate:g}" for rate in RATES}
    assert rows(folders[1e-5]) == first and [row["step"] for row in first] == [1, 2, 3, 4, 5, 6]  # half of 4 epochs
    figures = {f"{rate:g}": max(row["dice"] for row in rows(folder, "val")) for rate, folder in folders.items()}
    config = RunReader(run).config
    assert config["optim"]["chosen"] == figures and figures["0.003"] > figures["1e-05"]
    assert config["optim"]["optimizer"]["lr"] == 3e-3 and rows(run)[0]["lr"] == 3e-3
    for rate, folder in folders.items():
        theirs = RunReader(folder).config
        assert (theirs["seed"], theirs["data"]["test_split"]) == (config["seed"], None)
        assert theirs["optim"]["optimizer"]["lr"] == rate and not (folder / "results.json").exists()
    assert json.loads((run / "results.json").read_text())["splits"]["test"] == "test"

    line = "rate chosen: 0.003 by dice on split `val` after 0.5 of the epochs: 1e-05 "
    assert line in capsys.readouterr().out
    assert line in render(read_run(run), {})

    before = (run / "results.json").stat().st_mtime_ns
    assert choose(run, discs, "optim.optimizer.lr=1") == 0  # what is chosen stands for it
    assert (run / "results.json").stat().st_mtime_ns == before
    assert choose(run, discs, "optim.choose_share=0.25") == 2
    assert "optim.choose_share: 0.5 -> 0.25" in capsys.readouterr().err


@pytest.mark.usefixtures("libraries")
def test_a_rate_that_diverges_is_not_chosen(discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoints elsewhere. Of rates that all diverge none is chosen, and a run that has begun chooses none."""
    words = f"checkpoint.folder={tmp_path / 'checkpoints'}", "stages.finetune.epochs=2", "data.test_split=null"
    assert choose(tmp_path / "run", discs, *words, "optim.choose=[3e-3,1e30]") == 0
    assert RunReader(tmp_path / "run").config["optim"]["chosen"].keys() == {"0.003"}
    assert ", 1e+30 diverged" in capsys.readouterr().out
    assert choose(tmp_path / "none", discs, "optim.choose=[1e30]") == 2
    assert "optim.choose=[1e+30]: training diverges with each: name lower rates" in capsys.readouterr().err
    plain, where = tmp_path / "plain", f"checkpoint.folder={tmp_path / 'plain_checkpoints'}"
    assert choose(plain, discs, where, "optim.choose=null", "steps=1") == 0
    assert choose(plain, discs, where) == 2 and "has begun without optim.choose" in capsys.readouterr().err
    assert not (plain / "rates").exists()


def test_rates_cannot_be_chosen_without_a_validation_split() -> None:
    with pytest.raises(UserError, match=r"optim\.choose=.*: expected null without data\.val_split"):
        compose("finetune", ["init=random", "data.shards=none", "optim.choose=[1e-3]", "data.val_split=null"])


def test_a_rate_that_a_run_chooses_is_not_in_its_name() -> None:
    """It follows from the others."""
    config: Any = OmegaConf.to_container(compose("finetune", ["init=random", "data.shards=none"]))
    names = identity(config, execution("finetune"))
    assert "optim.optimizer.lr" in names
    config["optim"]["choose"] = [1e-3]
    names = identity(config, execution("finetune"))
    assert "optim.choose" in names and "optim.optimizer.lr" not in names


@pytest.mark.parametrize(
    ("encoder", "blocks"),  # names of first and last weights, from the stem on
    [
        ("resnet18", ["model.conv1", *(f"model.layer{i}.{j}.conv1" for i in range(1, 5) for j in range(2))]),
        ("test_vit", ["model.patch_embed.proj", *(f"model.blocks.{i}.attn.qkv" for i in range(6))]),
    ],
)
def test_blocks_nearer_to_the_input_have_lower_rates_and_the_head_its_own(encoder: str, blocks: list[str]) -> None:
    words = ["data.shards=none", f"model.encoder={encoder}", "data.size=32", "optim.layer_decay=0.5"]
    blueprint = FinetuneBlueprint(
        compose("finetune", ["init=random", *words, "optim.head_factor=10", "task=labels", "task.labels=[a]"])
    )
    parts = {"encoder": build_encoder(encoder, size=32), "decoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)}
    network = nn.ModuleDict(parts)
    optimizer = optim.stage_optimizer(blueprint.config.optim, network, 32)
    assert [g["lr"] / g["factor"] for g in optimizer.param_groups] == pytest.approx(
        [2e-4] * (len(blocks) + 2)
    )  # logged
    names = {id(p): name for name, p in network.named_parameters()}
    rate = {names[id(p)]: group["initial_lr"] / 2e-4 for group in optimizer.param_groups for p in group["params"]}
    assert len(rate) == len(names)
    assert rate["decoder.weight"] == rate["decoder.bias"] == 1 and rate["head.weight"] == pytest.approx(10)
    for depth, name in enumerate(reversed(blocks), 1):
        assert rate[f"encoder.{name}.weight"] == pytest.approx(0.5**depth), name
    assert min(rate.values()) == pytest.approx(0.5 ** len(blocks))
    assert encoder != "test_vit" or rate["encoder.model.norm.weight"] == 1  # as in BEiT's and DINOv2's code
