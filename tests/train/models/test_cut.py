"""Networks of which a process builds its rows alone: values, and what is drawn next, are those of whole ones."""

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from harness import finish
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from dira_scale.base.config.compose import compose
from dira_scale.base.config.files import folder
from dira_scale.train.blueprint import blueprint_of
from dira_scale.train.models.architecture import architecture
from dira_scale.train.models.cut import CannotCutError, Cut, RowShare, built, cut_all, cutting
from dira_scale.train.models.momentum import local_shard, local_start, momentum_copy
from dira_scale.train.models.network import on_meta
from dira_scale.train.models.start import start_weights

SMALL = sorted(file.stem for file in (folder("configs") / "experiment").glob("small*.yaml"))
QUICK = ("small_cpc3d", "small_dinov2", "small_distil3d", "small_mae_vit3d", "small_pcrl3d")  # the others take minutes
TIMM = ("test_resnet", "vit_tiny_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224")
TIMM += ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "convnext_atto")
VOLUMES = {
    "ResEnc": {"features": [8, 8, 16, 16, 32, 32], "blocks": [1, 1, 1, 1, 1, 1]},
    "SwinUNETR": {"feature_size": 12},
    "UNet3D": {"width": 0.25, "norm": "batch", "up": "transposed"},
    "ViT3D": {"embed_dim": 90, "depth": 2, "num_heads": 3, "reg_tokens": 2},
    "InflatedViT": {"encoder": "vit_tiny_patch16_224", "patch_size": 8},
}


def rows(parameter: torch.Tensor, index: int, shards: int) -> torch.Tensor:
    """By torch's own division, which FSDP2 calls."""
    chunks = parameter.detach().chunk(shards)
    return chunks[index] if index < len(chunks) else parameter.detach()[:0]


def assert_cut(make: Callable[[], nn.Module], shards: int = 3) -> nn.Module:
    """Without once building whole; returns the last of the cut modules."""
    torch.manual_seed(5)
    whole, following = make(), torch.rand(1)
    for index in range(shards):
        share = RowShare(index, shards)
        torch.manual_seed(5)
        with cutting(share):
            module = make()
        assert torch.equal(torch.rand(1), following)
        assert all(isinstance(parameter, Cut) for parameter in module.parameters() if parameter.dim() > 1)
        cut_all(module, share)
        for (name, expected), (same, actual) in zip(whole.named_parameters(), module.named_parameters(), strict=True):
            assert name == same and actual.shape == expected.shape and actual.requires_grad == expected.requires_grad
            assert torch.equal(local_shard(actual), rows(expected, index, shards)), name
        for (name, expected), (same, actual) in zip(whole.named_buffers(), module.named_buffers(), strict=True):
            assert name == same and torch.equal(actual, expected), name
    return module


@pytest.mark.parametrize(
    "experiment", [name if name in QUICK else pytest.param(name, marks=pytest.mark.system) for name in SMALL]
)
def test_methods_are_cut_as_they_are_built(experiment: str) -> None:
    """Momentum copies, queues, heads and reinitialised layers too; teachers stay whole, outside of the module."""
    node = {"small_distil": "method", "small_distil3d": "method", "small_dira_distil": "method.base"}.get(experiment)
    words = [f"{node}.teachers=[{{weights: random, encoder: test_resnet}}]"] if node else []
    blueprint = blueprint_of("pretrain", compose("pretrain", ["data.shards=none", f"experiment={experiment}", *words]))
    assert_cut(lambda: blueprint.networks()[0])


@pytest.mark.parametrize("name", TIMM)
def test_backbones_are_cut_as_they_are_built(name: str) -> None:
    fewer: dict[str, Any] = {"depth": 2} if name.startswith(("vit", "eva")) else {}
    fewer |= {"depths": (1, 1, 1, 1), "embed_dim": 24} if name.startswith("swin") else {}
    module = assert_cut(lambda: timm.create_model(name, num_classes=0, **fewer))
    assert not any(isinstance(parameter, Cut) for parameter in on_meta(module).parameters())


@pytest.mark.parametrize("kind", VOLUMES)
def test_networks_of_volumes_are_cut_as_they_are_built(kind: str) -> None:
    model = architecture(OmegaConf.create({"_target_": kind, **VOLUMES[kind]}))
    assert_cut(lambda: model.build_network(model.build_encoder([64, 64, 64], 1), 1))


class Looking(nn.Module):
    """What constructors do to parameters."""

    def __init__(self, by: Callable[[nn.Parameter], Any]) -> None:
        super().__init__()
        self.first = nn.Linear(3, 7)
        alias = nn.Parameter(torch.empty(7, 3))
        self.second = self.shared = alias
        nn.init.trunc_normal_(alias, a=-1, b=1)
        by(self.first.weight)


@pytest.mark.parametrize(
    ("by", "cuts"),
    [
        (lambda weight: weight.data.mul_(3).add_(1), True),
        (lambda weight: setattr(weight, "data", torch.randn(7, 3)), True),
        (lambda weight: nn.init.normal_(weight).data.clamp_(-1, 1), True),
        (lambda weight: nn.init.xavier_normal_(weight, weight.detach().abs().max().item()), None),
        (lambda weight: weight.data.copy_(torch.rand(7, 3)), True),
        (lambda weight: nn.init.zeros_(weight), True),
        (lambda weight: nn.init.orthogonal_(weight), False),
        (lambda weight: weight.data[:2].zero_(), False),
        (lambda weight: weight.data.sum().item(), False),
    ],
)
def test_what_a_constructor_does_is_known_or_the_network_is_whole(by: Callable[[Any], Any], cuts: bool | None) -> None:
    for index in range(3):
        torch.manual_seed(1)
        whole, following = Looking(by), torch.rand(1)
        torch.manual_seed(1)
        module = built(lambda: Looking(by), RowShare(index, 3))
        assert torch.equal(torch.rand(1), following) and module.second is module.shared
        assert isinstance(module.second, Cut) is bool(cuts)
        cut_all(module, RowShare(index, 3))
        assert module.second is module.shared and isinstance(module.second, Cut)
        for expected, actual in zip(whole.parameters(), module.parameters(), strict=True):
            assert torch.equal(local_shard(actual), rows(expected, index, 3))


@pytest.mark.parametrize("index", [6, 7])
def test_more_shards_than_rows_and_another_type(index: int) -> None:
    module, copied = (Looking(lambda weight: None) for _ in range(2))
    cut_all(module, RowShare(index, 8))
    assert [local_start(p) for p in module.parameters()] == [3 * index, 3 * index, index]
    assert not module.second.share.of(torch.ones(3, 2)).numel()
    cut_all(module.double(), RowShare(index, 8))
    assert all(p.dtype == local_shard(p).dtype == torch.float64 for p in module.parameters())
    module.load_state_dict(copied.double().state_dict())
    for twin in (module, momentum_copy(module), deepcopy(module)):
        for expected, actual in zip(copied.parameters(), twin.parameters(), strict=True):
            assert torch.equal(local_shard(actual), rows(expected, index, 8))
    with pytest.raises(CannotCutError, match="of rows"):
        module.first.weight.sum()


def test_start_weights_are_copied_into_the_rows(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=0, in_chans=1).state_dict(), tmp_path / "file.safetensors")
    model = architecture(compose("pretrain", ["data.shards=none", "experiment=small", "model.encoder=test_vit"]).model)

    def make() -> nn.Module:
        encoder = model.build_encoder(96, 3)  # the stem is adapted, positions are resampled
        start_weights(str(tmp_path / "file.safetensors"), encoder)
        return encoder

    assert_cut(make)


@pytest.mark.timeout(300)
def test_a_process_needs_its_share_and_the_largest_tensor() -> None:
    """At a start, between stages, and where the main process gets it all, of four; values are checked there."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"]
    printed = finish([*launch, str(Path(__file__).parents[1] / "engine" / "started.py")])
    for rank, peak in enumerate(json.loads(printed.split("PEAKS ")[1].splitlines()[0])):
        slack = 8e6  # of 203 MB
        assert peak["share"] == pytest.approx(203e6 / 4, rel=0.02)
        assert peak["stages"] < peak["share"] + peak["largest"] + slack
        assert peak["gathered"] < (rank == 0) * 203e6 + peak["share"] + 12 * peak["largest"] + slack  # torch's own
