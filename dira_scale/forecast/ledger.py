"""Records what operations allocate, compute and send while they run. Works on tensors without data."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.distributed_c10d import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode
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


class Collective(NamedTuple):
    """One message of a method or a layer to the other ranks."""

    kind: str  # "all_reduce", "gather" or "all_to_all"
    size: int  # bytes: of the sum, of the whole gathered tensor, or of what a rank sends and receives
    ranks: int  # of its group; of an all_to_all with unequal parts, those that exchange any (NCCL sends no empty parts)
    asynchronous: bool = False  # awaited later, so that arithmetic may hide it


@dataclass(frozen=True)
class Work:
    """What a device computes and moves.

    Attributes:
        flops: floating-point operations of products; a multiplication and an addition are two.
        moved: bytes that operations read and write, each tensor once; views and allocations move nothing.
    """

    flops: int = 0
    moved: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.moved + other.moved)

    def __sub__(self, other: "Work") -> "Work":
        return Work(self.flops - other.flops, self.moved - other.moved)


class LiveBytes(NamedTuple):
    """Bytes alive right after an operation."""

    gradients: float  # of the watched parameters
    others: float  # activations, temporaries, everything else allocated since the ledger was opened


class Ledger(TorchDispatchMode):
    """A context that records work, messages and, after each operation, the bytes alive: by storage, so that views and
    saved tensors count once.

    It does not see what an operation allocates and frees internally (a convolution's workspace).

    Args:
        watched: parameters whose gradients are counted separately.
    """

    def __init__(self, watched: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.watched = list(watched)
        self.live_bytes: list[LiveBytes] = []
        self.collectives: list[Collective] = []
        self.work = Work()
        self.operations = 0  # that torch dispatches, views too: each takes the host some time
        self._bytes: dict[int, int] = {}  # by live storage
        self._gradients: set[int] = set()  # storages that hold gradients
        self._ignored: set[int] = set()  # storages that existed before
        self._others = self._of_gradients = 0

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Do not count these: they existed before and stay."""
        self._ignored |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def __enter__(self) -> "Ledger":
        self.ignore(self.watched)
        self._hooks = [p.register_post_accumulate_grad_hook(self._is_gradient) for p in self.watched]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs := kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)  # FlopCounterMode itself would keep recomputed graphs alive
        flops = formula(*args, **kwargs, out_val=out) if formula else 0
        read, written = ([x for x in tree_leaves(each) if isinstance(x, Tensor)] for each in ((args, kwargs), out))
        self.work += Work(flops, _moved(func, read, written))
        self.operations += func.namespace != "prim"  # tensors without memory alone dispatch those
        if func.namespace == "c10d":
            self._note_collective(func, args, kwargs)
        for tensor in written:
            self._note(tensor.untyped_storage())
        self.live_bytes.append(LiveBytes(self._of_gradients, self._others))
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._bytes and key not in self._ignored:
            self._bytes[key] = storage.nbytes()
            self._others += storage.nbytes()
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        size = self._bytes.pop(key)
        if key in self._gradients:
            self._gradients.remove(key)
            self._of_gradients -= size
        else:
            self._others -= size

    def _is_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self._bytes and key not in self._gradients:
            self._gradients.add(key)
            self._others -= self._bytes[key]
            self._of_gradients += self._bytes[key]

    def _note_collective(self, func: Any, args: Any, kwargs: Any) -> None:
        schema = func._schema.arguments
        given = {argument.name: argument.default_value for argument in schema}  # dispatched without those at default
        given |= dict(zip(given, args, strict=False)) | kwargs
        tensors = [tensor for tensor in tree_leaves(args[0]) if isinstance(tensor, Tensor)]  # the outputs
        group = ProcessGroup.unbox(given["process_group"])
        name = func._schema.name
        kind = "all_reduce" if "reduce" in name else "all_to_all" if "alltoall" in name else "gather"
        count = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        parts = zip(given.get("output_split_sizes") or (), given.get("input_split_sizes") or (), strict=True)
        partners = {rank for rank, (received, sent) in enumerate(parts) if received or sent}
        ranks = len(partners | {group.rank()}) if partners else group.size()
        self.collectives.append(Collective(kind, count, ranks, given.get("async_op", False)))


def _moved(func: Any, read: list[Tensor], written: list[Tensor]) -> int:
    """Bytes that an operation reads and writes."""
    if func._schema.is_mutable:
        written = written or read  # several tensors at once are changed in place, and nothing is returned
    elif "empty" in func._schema.name or {*map(_storage, written)} <= {*map(_storage, read)}:  # memory, or a view
        return 0
    return sum(min(x.numel() * x.element_size(), x.untyped_storage().nbytes()) for x in (*read, *written))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
