"""Records what operations allocate, compute and send while they run. Works on tensors without data."""

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.distributed.distributed_c10d import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dira_scale.fleet.forecast.work import Work, arguments_of, work_of

# As how many of torch's operations one takes the host: Triton's launches take longer (docs/evidence/scale.md); those of
# prim are of tensors without memory alone.
HOST = {"dira_scale": 4, "prim": 0}


class CollectiveMessage(NamedTuple):
    """One message of a method or a layer to the other ranks."""

    kind: str  # "all_reduce", "gather" or "all_to_all"
    size: int  # bytes: of the sum, of the whole gathered tensor, or of what a rank sends and receives
    ranks: int  # of its group; of an all_to_all with unequal parts, those that exchange any (NCCL sends no empty parts)
    asynchronous: bool = False  # awaited later, so that arithmetic may hide it


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
        self.collectives: list[CollectiveMessage] = []
        self.work = Work()
        self.operations = 0  # that torch dispatches, views too: each takes the host some time, ours as HOST says
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
        self.work += work_of(func, args, kwargs, out)  # FlopCounterMode would keep recomputed graphs alive
        self.operations += HOST.get(func.namespace, 1)
        if func.namespace == "c10d":
            by_name = arguments_of(func, args, kwargs)
            outputs = [tensor for tensor in tree_leaves(args[0]) if isinstance(tensor, Tensor)]
            group, name = ProcessGroup.unbox(by_name["process_group"]), func._schema.name
            kind = "all_reduce" if "reduce" in name else "all_to_all" if "alltoall" in name else "gather"
            count = sum(tensor.numel() * tensor.element_size() for tensor in outputs)
            parts = zip(by_name.get("output_split_sizes") or (), by_name.get("input_split_sizes") or (), strict=True)
            partners = {rank for rank, (received, sent) in enumerate(parts) if received or sent}
            ranks = len(partners | {group.rank()}) if partners else group.size()
            self.collectives.append(CollectiveMessage(kind, count, ranks, by_name.get("async_op", False)))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._bytes and key not in self._ignored:
                    self._bytes[key] = storage.nbytes()
                    self._others += storage.nbytes()
                    weakref.finalize(storage, self._forget, key)
        self.live_bytes.append(LiveBytes(self._of_gradients, self._others))
        return out

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
