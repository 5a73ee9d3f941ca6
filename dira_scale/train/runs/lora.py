"""Low-rank changes of weights (LoRA) in a checkpoint, as peft names them: what resumes a run has them apart, all else
reads ordinary weights."""

from collections.abc import Mapping

from torch import Tensor

from dira_scale.base.errors import UserError

BASE, A, B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
SCALE = "lora_scale"  # a buffer beside them: alpha / rank


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint with W + scale · B A in the place of each W, A and B, under W's name.

    Raises UserError if one of them is missing, or has another shape than W.
    """
    result = dict[str, Tensor]()
    for name, tensor in tensors.items():
        layer, base, rest = name.rpartition(BASE)
        if base and rest == "weight":
            a, b, scale = (tensors.get(key) for key in (layer + A, layer + B, f"{layer}.{SCALE}"))
            if a is None or b is None or scale is None:
                raise UserError(f"the checkpoint has {layer}{BASE}weight without what LoRA adds to it: it is damaged")
            if a.ndim != 2 or b.ndim != 2 or (len(b), a.shape[1]) != tensor.shape or len(a) != b.shape[1] or scale.ndim:
                raise UserError(f"the checkpoint's LoRA of {layer} has other shapes than its weight: it is damaged")
            result[f"{layer}.weight"] = tensor + scale * (b @ a)
        elif base:
            result[f"{layer}.{rest}"] = tensor
        elif not name.endswith((A, B, f".{SCALE}")):
            result[name] = tensor
    return result
