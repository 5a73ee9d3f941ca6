"""Frozen parts: nothing of them moves but what is named, LoRA ends as ordinary weights, and what a linear probe of
pixels can learn over them."""

import json
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from finetune.conftest import TINY
from harness import assert_equal_runs, finish
from needs import need_extra
from timm.models.beit import Attention
from torch import Tensor, nn
from train.models.test_classifier import model

from dira_scale.api import export
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.finetune import main
from dira_scale.finetune.blueprint import FinetuneBlueprint
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.freezing import freeze
from dira_scale.fleet.forecast.network import fake_task
from dira_scale.judge.evaluation.finetuned_network import TrainedRun
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.judge.tasks.task import identity
from dira_scale.train.distributed import processes
from dira_scale.train.engine import optim
from dira_scale.train.models import norm
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.network import Network
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.lora import merged

VIT3D = {"_target_": "ViT3D", "embed_dim": 24, "depth": 2, "num_heads": 2, "decoder_channels": [8, 4], "reg_tokens": 1}
INFLATED = {"_target_": "InflatedViT", "encoder": "test_vit", "patch_size": 8}
OF_VOLUMES = {"vit3d": VIT3D, "inflated": INFLATED}
MASKS = [*TINY, "task=masks", "task.classes={upper: 1, lower: 2}", "optim.optimizer.lr=3e-3"]
LINEAR, ESTIMATED = "task.decoder=linear", "validate.norm_passes=2"
BLOCK = r"encoder\.model\.(layer4|blocks\.[45]|norm)\."
BIAS = r"encoder\.(?!pyramid).*bias$"


def built(kind: str, head: str) -> Network:
    torch.manual_seed(0)
    of_volumes = OF_VOLUMES.get(kind)
    made: Any = architecture(of_volumes | {"weights": None, "bn_groups": 1} if of_volumes else model(kind))
    encoder = made.build_encoder((16, 16, 16) if of_volumes else 32)
    network: Network = made.build(head, encoder, 2)
    norm.convert(network)
    return network


@cache
def default() -> Finetune:
    words = ["init=random", "data.shards=none", "optim.optimizer.lr=0.1"]
    return cast(Finetune, FinetuneBlueprint(compose("finetune", words)).config)


def chosen(frozen: str | None, trained: str, **lora: Any) -> Finetune:
    return replace(default(), frozen=frozen, trained=trained, lora=replace(default().lora, **lora))


def images(network: Network) -> Tensor:
    sides = network.encoder.dimensions * (16 if network.encoder.dimensions == 3 else 32,)
    return torch.rand(2, 1, *sides, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "head", "frozen", "trained", "learned"),
    [
        ("test_resnet", "dense", "encoder", "last-1", rf"{BLOCK}|decoder|head"),
        ("test_resnet", "pooled", "network", "biases", rf"{BIAS}|head"),
        ("test_vit", "pooled", "encoder", "last-2", rf"{BLOCK}|head"),
        ("test_vit", "dense", "encoder", "biases", rf"{BIAS}|encoder\.pyramid|decoder|head"),
        ("inflated", "pooled", "encoder", "biases", rf"{BIAS}|encoder\.depth_embed|head"),
        ("vit3d", "dense", "network", "lora", r"encoder.*(k_proj|attn\.proj)\.lora_[AB]|head"),
    ],
)
def test_exactly_what_is_named_learns(kind: str, head: str, frozen: str, trained: str, learned: str) -> None:
    """By an optimizer that has these alone; frozen BatchNorm has the statistics of the start."""
    if trained == "lora":
        need_extra("peft")
    network, config = built(kind, head), chosen(frozen, trained, targets=["k_proj", "proj"])
    freeze(network, config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = optim.stage_optimizer(config.optim, network.train(), 4)
    parameters = dict(network.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    expected = {name for name in parameters if re.match(learned, name)}
    assert {names[id(p)] for group in optimizer.param_groups for p in group["params"]} == expected
    for _ in range(2):  # LoRA's A moves once B has
        network(images(network)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        norm.commit_statistics(network)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}
    learns = [BLOCK] * (trained == "last-1") + ["decoder"] * (frozen == "encoder")
    buffers = [name for name in before if re.search("running|num_batches", name)]
    statistics = {name for name in buffers if any(re.match(part, name) for part in learns)}
    assert expected == {name for name in moved if name in parameters} and moved - expected == statistics


class OfBeit(nn.Module):
    """Its layer's weight is read, and its bias is not in it."""

    name = "of_beit"

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention(16, num_heads=2, qkv_bias=True)
        nn.init.normal_(self.attn.q_bias)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attn(x)
        return attended


@pytest.mark.parametrize("kind", ["test_vit", "vit3d", "beit"])
def test_lora_begins_as_the_network_and_ends_as_ordinary_weights(kind: str) -> None:
    need_extra("peft")
    config = chosen("encoder", "lora", rank=3, alpha=6)
    network = Network() if kind == "beit" else built(kind, "pooled")
    if kind == "beit":
        torch.manual_seed(0)
        network.encoder, network.decoder, network.head = OfBeit(), nn.Identity(), nn.Identity()  # type: ignore[assignment]
    x = torch.rand(2, 5, 16) if kind == "beit" else images(network)
    plain = {name: value.clone() for name, value in network.eval().state_dict().items()}
    before = network(x)
    freeze(network, config)
    torch.testing.assert_close(network(x), before, rtol=0, atol=1e-6 if kind == "beit" else 0)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    changed, tensors = network(x), dict(merged(network.state_dict()))
    assert (changed - before).abs().max() > 1e-3 and tensors.keys() == plain.keys()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # W is W; by the network without LoRA's layers, which B = 0 is
            parameter.data.zero_()
            layer = network.get_submodule(name.partition(".lora_")[0])
            stem = name.partition(".lora_")[0]
            layer.get_parameter("base_layer.weight").data.copy_(tensors[f"{stem}.weight"])
    torch.testing.assert_close(network(x), changed, rtol=1e-5, atol=1e-5)


def test_a_damaged_change_is_refused_before_it_is_multiplied() -> None:
    weight, a, b = torch.zeros(4, 6), torch.zeros(2, 6), torch.zeros(4, 2)
    of = {"x.base_layer.weight": weight, "x.lora_A.default.weight": a, "x.lora_B.default.weight": b}
    of["x.lora_scale"] = torch.tensor(1.0)
    assert merged(of).keys() == {"x.weight"}
    for name, value in {"lora_A.default.weight": a[:, :5], "lora_B.default.weight": b[:, :1], "lora_scale": a}.items():
        with pytest.raises(UserError, match=r"LoRA of x has other shapes than its weight"):
            dict(merged(of | {f"x.{name}": value}))
    del of["x.lora_B.default.weight"]
    with pytest.raises(UserError, match=r"without what LoRA adds to it"):
        merged(of)


@pytest.mark.parametrize(
    ("kind", "frozen", "trained", "said"),
    [
        ("test_vit", "encoder", "last-0", "trained: expected biases, lora, or last-1, last-2, …"),
        ("test_vit", None, "biases", "trained: expected null, or what is frozen beside it: frozen=encoder"),
        ("test_vit", "encoder", "last-7", "trained=last-7: test_vit has 6 blocks; name as many"),
        ("test_resnet", "encoder", "lora", "trained=lora: test_resnet has no linear layer called qkv"),
    ],
)
def test_what_cannot_learn_is_refused(kind: str, frozen: str | None, trained: str, said: str) -> None:
    if trained == "lora":
        need_extra("peft")
    with pytest.raises((UserError, ArgumentError), match=re.escape(said)) as refusal:
        freeze(built(kind, "pooled"), chosen(frozen, trained))
    assert "\n" not in str(refusal.value)


def test_a_plan_counts_what_learns_and_a_sweeps_check_refuses_it_before_the_run() -> None:
    need_extra("peft")
    words = ["data.shards=none", "data.size=64", "frozen=encoder", "trained=lora", "lora.rank=4"]
    blueprint = FinetuneBlueprint(compose("finetune", ["init=random", *words, "model.encoder=test_vit"]))
    counts = [p.numel() for p in fake_task(blueprint).ever_trained()]
    assert sum(counts) == 6 * 4 * (64 + 3 * 64 + 64 + 64) + 64 + 1  # of each block: qkv, proj; the head
    with pytest.raises(UserError, match="trained=lora: test_resnet has no linear layer"):
        FinetuneBlueprint(compose("finetune", ["init=random", *words, "model.encoder=test_resnet"])).check(1)


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
def test_a_run_with_lora_resumes_bit_for_bit_and_ends_as_an_ordinary_network(discs: Path, tmp_path: Path) -> None:
    need_extra("peft")
    words = [*TINY, f"data.shards={discs}", "task=labels", "model.encoder=test_vit", "data.size=160"]
    words = [*words, "task.labels=[bright]", "frozen=encoder", "trained=lora", "optim.optimizer.lr=3e-3"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*words, f"run={whole}"]) == 0
    assert main([*words, f"run={parts}", "steps=3"]) == 0 and main([*words, f"run={parts}"]) == 0
    assert_equal_runs(whole, parts)
    tensors, _ = checkpoint.load(checkpoint.latest(whole))
    states = {name.partition(".exp_avg")[0] for name in tensors if name.startswith("optim.") and "exp_avg" in name}
    assert states and all(re.search(r"\.lora_[AB]\.default\.weight$|\.head\.", name) for name in states)
    log, card = (whole / "log.txt").read_text(), json.loads((whole / "description.json").read_text())["training"]
    assert (said := re.search(r"frozen: encoder, with LoRA of rank 8, the .*; (.* parameters are learned)", log) or
            re.search(r"frozen: encoder, with LoRA of rank 8, of random weights; (.* are learned)", log))  # fmt: skip
    assert said[1] in card and "frozen: encoder, with LoRA of rank 8" in card

    exported = export(whole, {"formats": ["plain"]})
    assert TrainedRun.of(whole).hash == TrainedRun.of(exported).hash
    again = tmp_path / "again"  # of the weights that are merged
    assert main([*words[:-3], f"run={again}", f"init={whole}", "steps=1"]) == 0


@pytest.fixture(scope="module")
def start(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, which leaves torch's number of threads as it was."""
    pytest.importorskip("monai")
    run, threads = tmp_path_factory.mktemp("start") / "run", torch.get_num_threads()
    assert main([*MASKS, f"data.shards={discs}", f"run={run}", "steps=1", "data.test_split=null"]) == 0
    torch.set_num_threads(threads)
    return run


@pytest.mark.parametrize(
    ("words", "learned", "loaded", "said"),
    [
        (["frozen=encoder"], {"decoder", "head"}, True, "frozen: encoder; "),
        (["frozen=network"], {"head"}, True, "frozen: encoder and decoder; "),
        (["frozen=network"], {"head"}, False, "frozen: encoder and decoder, of random weights; "),
        pytest.param(["frozen=encoder", LINEAR], {"head"}, True, "frozen: encoder; ", marks=pytest.mark.system),
    ],
)
def test_a_frozen_part_keeps_weights_and_statistics_and_has_no_optimizer_state(
    words: list[str], learned: set[str], loaded: bool, said: str, discs: Path, start: Path, tmp_path: Path
) -> None:
    """Four steps, before the last of which a validation re-estimates BatchNorm's statistics where some learn, or where
    random weights have none."""
    run, init = tmp_path / "run", start if loaded else "random"
    words = [*MASKS, f"data.shards={discs}", f"run={run}", ESTIMATED, f"init={init}", *words]
    cfg = compose("finetune", words)
    task = FinetuneBlueprint(cfg).task(processes.start(cfg.parallel, "fp32"))
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    assert main([*words, "steps=4"]) == 0
    after, _ = checkpoint.load(checkpoint.latest(run))
    moved = {name for name, value in before.items() if not torch.equal(after[f"network.{name}"], value)}
    kept = {name for name in before if name.partition(".")[0] not in learned}
    statistics = {name for name in kept if "running_" in name or "num_batches" in name}
    assert moved == (before.keys() - kept) | (set() if loaded else statistics) and kept and statistics
    assert {name.split(".")[2] for name in after if name.startswith("optim.network.")} == learned
    log = (run / "log.txt").read_text()
    count = sum(value.numel() for name, value in task.module.named_parameters() if name not in kept)
    assert f"{said}{count:,} of " in log
    assert ("BatchNorm" in log) == ("decoder" in learned or not loaded)

    fake = fake_task(FinetuneBlueprint(cfg))  # as a plan counts
    assert sum(parameter.numel() for parameter in fake.ever_trained()) == count


def test_a_linear_probe_learns_a_mask_that_is_linear_in_a_level_of_a_frozen_encoder() -> None:
    torch.manual_seed(0)
    built, task = architecture(model("test_resnet")), Segmentation(None, head="linear")
    network = task.network(built, built.build_encoder(64)).train()
    network.freeze("encoder")
    images = torch.rand(8, 1, 64, 64)
    level = F.interpolate(network.encoder(images)[2], size=(64, 64), mode="bilinear")
    score = torch.einsum("c,bchw->bhw", torch.randn(level.shape[1]), level)
    targets = (score > score.median()).long()
    optimizer = torch.optim.LBFGS(network.head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.stack([*task.terms(network(images), targets, identity).values()]).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    right = task.classified(task.predicted(network(images))) == targets
    assert right.float().mean() > 0.98
    assert all(parameter.grad is None for parameter in network.encoder.parameters())


@pytest.mark.usefixtures("libraries")
def test_a_linear_network_is_read_again_from_its_run_and_its_export(discs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main([*MASKS, LINEAR, f"data.shards={discs}", f"run={run}", "stages.finetune.epochs=1"]) == 0
    of_run, of_export = TrainedRun.of(run), TrainedRun.of(export(run))
    assert of_run.hash == of_export.hash and (run / "results.json").exists()
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(of_run.predictor(torch.device("cpu"))(image), of_export.predictor(torch.device("cpu"))(image))
    for format, why in {"smp": "needs a U-Net", "onnx": "has no decoder such as LinearNetwork's; use plain"}.items():
        with pytest.raises(UserError, match=rf"^formats: {format} {why}"):
            export(run, {"formats": format})


@pytest.mark.parametrize("key", ["layer_decay", "patch_factor"])
def test_a_frozen_encoder_has_no_rates_to_lower(key: str) -> None:
    with pytest.raises(UserError, match=rf"optim\.{key}=0\.5: expected null with frozen=encoder"):
        compose("finetune", ["init=random", "data.shards=none", "frozen=encoder", f"optim.{key}=0.5"])


@pytest.mark.system
@pytest.mark.parametrize(
    ("words", "parallel"),
    [
        (["task=survival", "task.time=bright", "task.event=coin", "steps=2", "model.encoder=test_vit",
          "frozen=encoder", "trained=lora", "data.val_split=null"], "fsdp2"),
        pytest.param([*MASKS[len(TINY):], "frozen=network", "validate.batch=16"], "ddp", marks=pytest.mark.torture),
    ],
    ids=["sharded parameters", "no batch of the validation split"],
)  # fmt: skip
def test_two_processes_equal_one(words: list[str], parallel: str, discs: Path, tmp_path: Path) -> None:
    if "trained=lora" in words:
        need_extra("peft")
    for ranks in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] * (ranks > 1)
        command = [sys.executable, *launcher, "-m", "dira_scale.finetune", *TINY, f"data.shards={discs}", *words]
        together = f"parallel={parallel if ranks > 1 else 'ddp'}"
        finish([*command, f"run={tmp_path / str(ranks)}", together, "data.test_split=null"])
    one, two = (checkpoint.load(checkpoint.latest(tmp_path / ranks))[0] for ranks in "12")
    assert one.keys() == two.keys()
    for name, value in one.items():
        if "trained=lora" in words:
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=f"{name}: ".__add__)
        elif name.startswith("network."):
            bound = 1e-4 if ".head." in name or "running_" in name else 0.0
            torch.testing.assert_close(two[name], value, rtol=bound, atol=bound, msg=f"{name}: ".__add__)
