"""D, normalisations and drop path alone: DiRA's largest part in three layouts and two precisions, norms of both kinds
of maps, and what is before and after a transformer's branch.

Each is timed forward and backward, with torch's own operations and with ours (``train/models/norm_act.py``,
``kept_rows.py``). What a layer would take at the planner's rates is expected; all must agree with IEEE fp32 as far as
their bits go.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from timm.layers import build_rotary_pos_embed
from timm.models.eva import EvaBlock
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu import items
from benchmarks.gpu.basics import BANDWIDTH, NEAR, SUSTAINED, expected_ms, seconds
from benchmarks.gpu.recipes import words
from benchmarks.gpu.report import Job, figure
from benchmarks.gpu.steps import TOLERANCE
from benchmarks.synthetic import blueprint
from dira_scale.fleet.forecast.ledger import Ledger
from dira_scale.train.distributed.precision import set_fp32
from dira_scale.train.models.network import moved

# Layout of weights and images -> whether they are channels last, and whether norms keep them so: torch's InstanceNorm
# does not, and every block goes there and back.
LAYOUTS = {"NHWC": (True, True), "NHWC, torch's norms": (True, False), "NCHW, torch's norms": (False, False)}
KINDS = {"torch's, bf16": torch.bfloat16, "torch's, fp16": torch.float16, "ours, bf16": torch.bfloat16}
Maps = tuple[tuple[int, ...], int, bool, float]  # shape, groups of the batch (0: each sample), channels last, slope
NORMS: dict[str, Maps] = {
    "InstanceNorm of volumes": ((2, 32, 160, 160, 160), 0, False, 0.01),
    "BatchNorm": ((256, 256, 56, 56), 1, True, 0.0),
    "BatchNorm of 4 groups": ((256, 256, 56, 56), 4, True, 0.0),
}


def judged(device: torch.device, precision: str, rehearse: bool) -> dict[str, Any]:
    """D's own step on a batch of clean and one of restored images, and its part of the generator's."""
    from dira_scale.train.models.norm_act import plain

    made: Any = blueprint(*words("dira_moco", rehearse, "data.batch=256"))
    size, count = made.config.data.size, made.config.data.batch
    torch.manual_seed(made.config.seed)
    state = made.adversary().state_dict()
    set_fp32("fp32")
    images = torch.rand(2, count, 1, size, size, device=device)
    restored = images[1].clone().requires_grad_()
    right, figures = dict[str, tuple[float, float]](), dict[str, Any]()
    for layout, (last, kept) in {"right": (False, False), **LAYOUTS}.items():
        adversary: Any = moved(made.adversary(), device, last)
        adversary.load_state_dict(state)
        if layout != "right":
            adversary.precision = precision
            set_fp32("tf32")
        passes = {
            "its own step": partial(passed, adversary.discriminator_loss, images, list(adversary.parameters())),
            "the generator's": partial(passed, adversary.generator_loss, [restored], [restored]),
        }
        for name, run in passes.items():
            with nullcontext() if kept else plain():
                if layout == "right":
                    with Ledger([]) as ledger:
                        right[name] = float(run()), expected_ms(ledger, precision)
                    continue
                off, expected = abs(float(run()) / right[name][0] - 1), right[name][1]
                taken = seconds(run, device, most=0.0 if rehearse else 0.5)
            allowed = TOLERANCE["bf16" if precision == "bf16" else "tf32"]
            figures[f"{layout}, {name}"] = figure(1e3 * taken, "ms", expected, f"off by {off:.0e}", off <= allowed)
    return {"figures": figures}


def passed(loss: Callable[..., Tensor], given: Iterable[Tensor], of: Iterable[Tensor]) -> Tensor:
    """A loss, and its gradients, which are dropped."""
    value = loss(*given)
    torch.autograd.grad(value, [*of])
    return value.detach()


def normalised(device: torch.device, shape: tuple[int, ...], groups: int, last: bool, slope: float) -> dict[str, Any]:
    """A normalisation with the activation after it, in 16 bits."""
    from dira_scale.train.models.norm_act import norm_act, plain

    torch.manual_seed(0)
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}[len(shape)] if last else torch.contiguous_format
    x, gradient = (torch.randn(shape, device=device).contiguous(memory_format=layout) for _ in range(2))
    weight, bias = nn.Parameter(torch.ones(shape[1], device=device)), nn.Parameter(torch.zeros(shape[1], device=device))

    def passes(x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        y = norm_act(x, weight, bias, groups=groups or len(x), slope=slope)
        return [y.detach(), *torch.autograd.grad(y, (x, weight, bias), gradient.to(y.dtype))]

    with plain(), Ledger([]) as ledger:
        right = passes(x.bfloat16().float())
    figures = {}
    for name, kind in KINDS.items():
        with nullcontext() if name.startswith("ours") else plain():
            given = x.bfloat16().to(kind)
            pairs = zip(passes(given), right, strict=True)
            off = max(float((a.float() - b).norm() / b.norm()) for a, b in pairs)  # a single value may change its sign
            taken = seconds(partial(passes, given), device, most=0.3)
        # Forward x is read and y written, backward x and dy read and dx written: with nothing else, that often.
        note = f"{5 * 2 * x.numel() / taken / 1e12:.2f} TB/s, off by {off:.0e}"
        figures[name] = figure(1e3 * taken, "ms", expected_ms(ledger, "bf16"), note, off <= NEAR)
    return {"figures": figures}


def transformed(device: torch.device, dim: int, side: int) -> dict[str, Any]:
    """A transformer's block of 12 heads on 16 volumes of ``side``³ patches: its products and all between them."""
    from dira_scale.train.models.volume.eva_block import FusedBlock

    def drawn() -> tuple[Any, Tensor, Tensor]:
        with device:
            rope = torch.cat(build_rotary_pos_embed([side] * 3, dim=dim // 18, in_pixels=False), -1)
            return FusedBlock(dim, 12, 0), torch.randn(16, side**3, dim, requires_grad=True), rope

    def passes(by: Any, block: nn.Module, x: Tensor, rope: Tensor, narrow: bool = True) -> list[Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow):
            y = by.forward(block, x, rope)
        return [y.detach(), *torch.autograd.grad(y, (x, *block.parameters()), x.detach())]

    torch.manual_seed(0)
    given, figures = drawn(), {}
    right = passes(EvaBlock, *given, narrow=False)
    for name, by in {"torch's, bf16": EvaBlock, "ours, bf16": FusedBlock}.items():
        with FakeTensorMode(), Ledger([]) as ledger:
            passes(by, *drawn())
        expected = (ledger.work.norms + ledger.work.others) / BANDWIDTH
        for product, count in ledger.work.products.items():
            expected += count * max(product.flops / SUSTAINED, product.moved / BANDWIDTH)
        pairs = zip(passes(by, *given)[:2], right[:2], strict=True)  # 16 bits round away gradients of q and k
        off = max(float((a - b).norm() / b.norm()) for a, b in pairs)
        taken = seconds(partial(passes, by, *given), device, most=0.3)
        figures[name] = figure(1e3 * taken, "ms", 1e3 * expected, f"off by {off:.0e}", off <= NEAR)
    return {"figures": figures}


def branched(device: torch.device, shape: tuple[int, ...]) -> dict[str, Any]:
    """LayerNorm of 11 of 16 samples, in 32 bits, before a branch of 16 bits; scaling and addition after it."""
    from dira_scale.train.models.kept_rows import added

    torch.manual_seed(0)
    (x, dy), norm = torch.randn(2, *shape, device=device), nn.LayerNorm(shape[-1], device=device)
    gamma, order = nn.Parameter(torch.ones(shape[-1], device=device)), torch.arange(len(x), device=device).view(-1, 16)

    def passes(fused: bool | None, narrow: torch.dtype = torch.bfloat16) -> list[Tensor]:
        given = x.detach().requires_grad_()
        with torch.autocast(device.type, torch.bfloat16, enabled=narrow is torch.bfloat16):
            y = added(given, norm, partial(Tensor.to, dtype=narrow), gamma, order, 11, fused=fused)
        return [y.detach(), *torch.autograd.grad(y, (given, gamma, *norm.parameters()), dy)]

    right, figures = passes(False, torch.float32), {}
    moved = (5.5 * 11 / 16 + 4) * x.nbytes  # at least
    for name, fused in {"torch's": False, "ours": None}.items():
        off = max(float((a - b).norm() / b.norm()) for a, b in zip(passes(fused), right, strict=True))
        taken = seconds(partial(passes, fused), device, most=0.3)
        note = f"{moved / taken / 1e12:.2f} TB/s, off by {off:.0e}"
        figures[name] = figure(1e3 * taken, "ms", 1e3 * moved / BANDWIDTH, note, off <= NEAR)
    return {"figures": figures}


def run(job: Job) -> bool:
    """All of it, by algorithms that repeat, as in training."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    each: dict[str, items.Item] = {
        f"D in {precision}": partial(judged, device, precision, job.rehearse) for precision in ("fp32", "bf16")
    }
    for name, (shape, groups, last, slope) in NORMS.items():
        tiny = (shape[0] if len(shape) > 4 else 8, 8, *[8] * (len(shape) - 2))
        each[name] = partial(normalised, device, tiny if job.rehearse else shape, groups, last, slope)
    each["a block of Primus"] = partial(transformed, device, *((72, 2) if job.rehearse else (864, 12)))
    each["drop path of a ViT-B's branch"] = partial(branched, device, (32, 5, 8) if job.rehearse else (256, 257, 768))
    return items.run(job, each)
