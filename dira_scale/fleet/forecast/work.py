"""The arithmetic and traffic of an operation on a GPU, as torch's kernels do it: by shapes, so without data."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
# The CPU's attention takes the same arguments as the GPU's, but has no formula of its own.
FORMULAS = flop_registry | {
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}
NORMS = "batch_norm", "group_norm", "layer_norm", "rms_norm"  # in the names of torch's operations
# Blocks that fill a GPU: four of 512 threads, as normalisations have them, on each of an H200's 132 multiprocessors.
BLOCKS = 528


class Product(NamedTuple):
    """A convolution or matrix product: floating-point operations (a multiplication and an addition are two), bytes."""

    flops: int
    moved: int
    single: bool = False  # of fp32: tf32 in a run of 16 bits, which tensor cores multiply half as fast


@dataclass(frozen=True)
class Work:
    """A device's arithmetic, and bytes of tensors that are read or written; views and allocations move nothing."""

    products: Counter[Product] = field(default_factory=Counter)  # how many there are of each
    norms: int = 0  # bytes that normalisations move
    idle: int = 0  # bytes that could be moved while a normalisation has too few blocks to fill the device
    others: int = 0  # bytes that all else moves

    def __add__(self, other: "Work") -> "Work":
        sums = self.norms + other.norms, self.idle + other.idle, self.others + other.others
        return Work(self.products + other.products, *sums)

    def __sub__(self, part: "Work") -> "Work":
        rest = self.norms - part.norms, self.idle - part.idle, self.others - part.others
        return Work(self.products - part.products, *rest)

    @property
    def flops(self) -> int:
        return sum(count * product.flops for product, count in self.products.items())

    @property
    def moved(self) -> int:
        return sum(count * product.moved for product, count in self.products.items()) + self.norms + self.others


def arguments_of(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """All arguments of a dispatched operation by name, also those left at their default, which are not dispatched."""
    schema = func._schema.arguments
    defaults = {argument.name: argument.default_value for argument in schema}
    return defaults | dict(zip(defaults, args, strict=False)) | kwargs


def work_of(func: Any, args: Any, kwargs: Any, out: Any) -> Work:
    """The work of a dispatched operation that returned ``out``."""
    read, written = ([x for x in tree_leaves(each) if isinstance(x, Tensor)] for each in ((args, kwargs), out))
    read = [*{id(x): x for x in read}.values()]  # what is given twice is read once
    name = func._schema.name
    if name == "dira_scale::kept_rows":
        return Work(others=_of_kept_rows(**arguments_of(func, args, kwargs)))
    if func._schema.is_mutable:
        written = written or read  # several tensors at once are changed in place, and nothing is returned
    moved = sum(map(size, (*read, *written)))
    if not func._schema.is_mutable and ("empty" in name or {*map(_storage, written)} <= {*map(_storage, read)}):
        moved = 0  # memory, or a view
    if formula := FORMULAS.get(func._overloadpacket):
        flops, by_name, biased = formula(*args, **kwargs, out_val=out), arguments_of(func, args, kwargs), 0
        if name == "aten::convolution" and by_name["bias"] is not None:
            biased = 2 * size(out)  # a kernel of its own adds the bias
        if name == "aten::convolution_backward":
            *of_both, of_bias = by_name["output_mask"]
            moved += size(args[0]) * all(of_both)  # the output's gradient is read for the input's and for the weights'
            biased = size(args[0]) * of_bias  # and summed
        return Work(Counter({Product(flops, moved, read[0].dtype == torch.float32): 1}), others=biased)
    if func.namespace == "aten" and any(norm in name for norm in NORMS):
        again, idle = _of_norm(name, arguments_of(func, args, kwargs), moved)
        return Work(norms=moved + again, idle=idle)
    # SyncBatchNorm's operations pass their arguments once.
    return Work(norms=moved) if any(norm in name for norm in NORMS) else Work(others=moved)


def _of_norm(name: str, arguments: Mapping[str, Any], moved: int) -> tuple[int, int]:
    """Bytes that a native normalisation reads a second time, and idle ones (aten/src/ATen/native/cuda:
    Normalization.cuh, group_norm_kernel.cu, layer_norm_kernel.cu).

    A first pass over the input, backward also over the output's gradient, finds statistics or sums; a second one
    computes the map. A layer norm's row stays in the cache; backward, its weights' gradients take the second pass.
    """

    def idle(passed: int, blocks: int) -> int:
        return round(passed * max(0.0, BLOCKS / blocks - 1))

    backward, x = "backward" in name, arguments["input"]
    again = size(x) * (1 + backward)
    if "batch_norm" in name:
        if not arguments.get("training", arguments.get("train", True)):
            return 0, 0
        if x.stride(1) == 1:  # channels last: blocks share the rows
            return again, 0
        channels = x.shape[1]  # one block has a channel of all samples, but the map's of one sample
        maps = channels if backward else len(x) * channels
        return again, idle(again, channels) + idle(moved, maps)
    if "group_norm" in name:
        return again, idle(again, arguments["N"] * arguments["C" if backward else "group"])
    return (again if backward and arguments["output_mask"][1] else 0), 0


def _of_kept_rows(read: Sequence[Tensor], written: Sequence[Tensor], kept: int, everything: bool, **_: Any) -> int:
    """Return the bytes that a kernel of ``train/models/kept_rows.py`` moves: the kept samples of each map; if it copies
    ``everything``, the whole first map and the whole result."""

    def of_kept(x: Tensor) -> int:
        return size(x) * kept // read[1].shape[1] if x.shape == read[0].shape else size(x)

    first = size if everything else of_kept
    return first(read[0]) + first(written[0]) + sum(map(of_kept, (*read[1:], *written[1:])))


def size(tensor: Tensor) -> int:
    """Bytes in memory: of a broadcast tensor, those that it has been made of."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
