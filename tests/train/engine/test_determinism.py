"""Gradients on a GPU that are the same each time: what a CPU can show of it."""

from pathlib import Path
from typing import Any

import pytest
import timm
import tiny_swin
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from train.engine.regression import train

from benchmarks import synthetic
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.train.engine import run, step
from dira_scale.train.engine.step import adds_in_any_order, one_order
from dira_scale.train.models.vit import averaged

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
# The differentiable operations for which torch.use_deterministic_algorithms raises on CUDA, by aten's names.
REFUSED = {
    "avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "fractional_max_pool3d_backward",
    "upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward",
    "upsample_trilinear3d_backward", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward",
    "reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward",
    "replication_pad1d_backward", "replication_pad2d_backward", "replication_pad3d_backward",
    "nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward", "_embedding_bag_dense_backward", "put_", "put",
    "histc", "bincount", "median", "grid_sampler_2d_backward", "grid_sampler_3d_backward", "cumsum", "max_unpool2d",
    "scatter_reduce",
}  # fmt: skip
SMALL = "parallel.threads=1", "data.batch=4", "model.bn_groups=1"
IMAGES = "data.size=64", "model.decoder_channels=[16,16,8,8,8]"
DIRA = *IMAGES, "method=dira_moco", "method.base.queue=64"
DROPPED = (
    "model=vit3d", "model.embed_dim=24", "model.depth=1", "model.num_heads=1", "data.size=[16,16,16]", "views=mae3d",
    "views.corruptions.mask.block=8", "method=mae", "method.masking=drop",
)  # fmt: skip


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("words", "unordered"),
    [
        ((*DIRA, "model.encoder=test_vit"), True),
        ((*DIRA, f"model.encoder={tiny_swin.NAME}"), False),  # its attention is not fused
        ((*IMAGES, "method=pcrl", "method.queue=64", "views=pcrl", "model.encoder=test_vit"), True),
        (DROPPED, True),
    ],
)
def test_a_backward_pass_with_attention_has_only_operations_that_a_gpu_can_do_in_one_order(
    words: tuple[str, ...], unordered: bool
) -> None:
    composed, config = synthetic.configuration(*SMALL, *words)
    network, _ = synthetic.networks(composed, config)
    assert adds_in_any_order(network, CUDA) == unordered
    images = tuple(torch.rand(4, 1, *network.views.sides) for _ in range(network.views.count))
    batch = synthetic.batches(PretrainBlueprint(composed), 4, CPU)[0].to(CPU)
    network.train()
    network.enter_stage(list(network.weights))
    terms = network(images, images, batch)
    total = sum(loss for loss in terms.losses.values())
    with Operations() as operations:
        total.backward()
    assert "native_layer_norm_backward" in operations.seen and operations.seen & REFUSED == set()


def test_convolutions_alone_and_cpus_need_nothing() -> None:
    attention, convolution = timm.create_model("test_vit"), nn.Conv2d(1, 1, 1)
    assert adds_in_any_order(attention, CUDA)
    assert not adds_in_any_order(attention, CPU) and not adds_in_any_order(convolution, CUDA)


class Probe(torch.autograd.Function):
    """Notes whether deterministic algorithms are on in its backward pass, which is not this thread's on a GPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seen: list[bool]) -> torch.Tensor:
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        ctx.seen.append(torch.are_deterministic_algorithms_enabled())
        return gradient, None


@pytest.mark.parametrize("attention", ["exact", "fast"])
def test_fast_attention_is_any_and_said(attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU that is said to add in any order; of a network without attention nothing is said."""
    fast, switches, log = attention == "fast", list[bool](), tmp_path / "run" / "log.txt"
    allowed = torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(step, "one_order", lambda wanted: switches.append(wanted) or one_order(wanted))
    try:
        assert train(str(tmp_path / "run"), "ddp", 2, attention=attention) == 0
        assert "two runs may differ" not in log.read_text()
        for module in (step, run):
            monkeypatch.setattr(module, "adds_in_any_order", lambda *_: True)
        assert train(str(tmp_path / "run"), "ddp", 4, attention=attention) == 0
        assert torch.backends.cuda.cudnn_sdp_enabled() == fast
    finally:
        torch.backends.cuda.enable_cudnn_sdp(allowed)
    assert switches == [False] * 2 + [not fast] * 2
    assert log.read_text().count("two runs may differ (parallel.attention=fast)") == fast


@pytest.mark.parametrize("wanted", [True, False])
def test_the_switch_is_on_for_the_backward_pass_alone(wanted: bool) -> None:
    seen: list[bool] = []
    loss = Probe.apply(torch.ones(1, requires_grad=True), seen).sum()
    with pytest.raises(ZeroDivisionError), one_order(wanted):
        loss.backward()
        raise ZeroDivisionError
    assert seen == [wanted] and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("sides", "size"), [((14, 14), (7, 7)), ((64, 48), (56, 42)), ((5, 7), (3, 7)), ((3, 3), (4, 4))]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_means_are_those_of_torchs_adaptive_pooling(
    sides: tuple[int, int], size: tuple[int, int], dtype: torch.dtype
) -> None:
    features = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    expected = F.adaptive_avg_pool2d(features.double(), size)
    actual = averaged(features, size)
    with Operations() as operations:
        actual.sum().backward()
    assert operations.seen and operations.seen & REFUSED == set()
    assert actual.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1.2e-2  # bfloat16's last bit, three times
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=0)
