"""Low-rank changes of weights (LoRA) in a checkpoint, as peft names them: what resumes a run has them apart, all else
reads ordinary weights."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from dira_scale.base.errors import UserError
from dira_scale.train.runs.checkpoint import LazyTensors

BASE, A, B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
OPTIMIZERS = "optim."  # what a checkpoint calls their states
SCALE = "lora_scale"  # a buffer beside them: alpha / rank


def merged(tensors: Mapping[str, Tensor]) -> LazyTensors:
    """Return the weights of a checkpoint, without optimizers' states, and with W + scale · B A in the place of each W,
    A and B, under W's name.

    Raises UserError if one of them is missing, or, where it is read, has another shape than W.
    """
    result = dict[str, Callable[[], Tensor]]()
    for name in tensors:
        layer, base, rest = name.rpartition(BASE)
        if base and rest == "weight":
            if not {layer + A, layer + B, f"{layer}.{SCALE}"} <= tensors.keys():
                raise UserError(f"the checkpoint has {layer}{BASE}weight without what LoRA adds to it: it is damaged")
            result[f"{layer}.weight"] = partial(changed_weight, tensors, layer)
        elif not name.startswith(OPTIMIZERS) and not name.endswith((A, B, f".{SCALE}")):
            result[f"{layer}.{rest}" if base else name] = partial(tensors.__getitem__, name)
    return LazyTensors(result)


def changed_weight(tensors: Mapping[str, Tensor], layer: str) -> Tensor:
    weight, a, b, scale = (tensors[layer + rest] for rest in (f"{BASE}weight", A, B, f".{SCALE}"))
    if a.ndim != 2 or b.ndim != 2 or (len(b), a.shape[1]) != weight.shape or len(a) != b.shape[1] or scale.ndim:
        raise UserError(f"the checkpoint's LoRA of {layer} has other shapes than its weight: it is damaged")
    return weight + scale * (b @ a)
