"""What FSDP2 gathers in 16 bits: weights that autocast casts anyway, so that no value differs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from dira_scale.train.models.bf16 import KINDS

FORWARDS = {kind.forward for kind in (nn.Linear, *KINDS)}  # hand weight and bias to an operation that autocast casts


class NarrowShard(Tensor):
    """This process's shard of a parameter, sent in the type ``sent`` and handed out in its own (FSDP2's extensions,
    which it looks for in a DTensor's local tensor).

    Autocast casts what is handed out without another rounding, and all gradients are computed as without this class.
    Operations return plain tensors.
    """

    __torch_function__: Any = torch._C._disabled_torch_function_impl
    sent: torch.dtype

    def fsdp_pre_all_gather(
        self, mesh: Any, outer_size: Sequence[int], outer_stride: Sequence[int], module: Any, mp_policy: Any
    ) -> tuple[tuple[Tensor], None]:
        padded = -(-outer_size[0] // mesh.size()), *outer_size[1:]
        return (self.as_strided(padded, outer_stride).to(self.sent),), None

    def fsdp_post_all_gather(
        self, outputs: tuple[Tensor], metadata: None, dtype: torch.dtype, *, out: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor]] | None:
        if out is None:
            whole = outputs[0].to(dtype)
            return whole, (whole,)
        with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(out):  # for a pass that has saved it
            out.copy_(outputs[0][: len(out)])
        return None


def narrow(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Let FSDP2 gather in ``dtype`` what autocast casts to it in a sharded ``module``: weights and biases of torch's
    linear layers and convolutions, unless another layer has them, too.

    Not where a class has a ``forward`` of its own, which may read them as they are. A layer that computes outside of
    autocast needs one: else its first pass raises RuntimeError.
    """
    cast, read, hooks = set[nn.Parameter](), set[nn.Parameter](), dict[nn.Module, Any]()

    def check(layer: nn.Module, _: Any) -> None:
        if torch.compiler.is_compiling():
            return
        hooks.pop(layer).remove()
        if not torch.is_autocast_enabled(device.type) or torch.get_autocast_dtype(device.type) != dtype:
            raise RuntimeError(
                f"{layer} computes outside of autocast, where weights that parallel=fsdp2 gathers in 16 bits are "
                "rounded: give it a class with a forward of its own, or set precision=fp32"
            )

    for layer in module.modules():
        parameters = dict(layer.named_parameters(recurse=False))
        if type(layer).forward in FORWARDS:
            cast |= {parameters.pop(name) for name in ("weight", "bias") if name in parameters}
            hooks[layer] = layer.register_forward_pre_hook(check)
        read |= set(parameters.values())
    for parameter in cast - read:
        if parameter.dtype == torch.float32:
            assert isinstance(parameter, DTensor)
            shard: Any = parameter._local_tensor
            shard.__class__, shard.sent = NarrowShard, dtype
