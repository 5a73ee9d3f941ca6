"""What operations hold, compute and tell other processes while they run. Works on tensors without data."""

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.distributed_c10d import ProcessGroup
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
# The CPU's attention has the arguments of the GPU's, and no formula of its own.
FORMULAS = flop_registry | {
    _aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[_aten._scaled_dot_product_flash_attention],
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _aten._scaled_dot_product_flash_attention_backward
    ],
}


class Collective(NamedTuple):
    """One message of a method or a layer to the other ranks."""

    kind: str  # "all_reduce", "gather" or "all_to_all"
    size: int  # bytes: of the sum, of what is gathered altogether, or of what a rank gives away and gets
    ranks: int  # of its group


class Moment(NamedTuple):
    """Live bytes when an operation has made its output."""

    gradients: float  # of the watched parameters
    others: float  # activations, temporaries, whatever else was made since the ledger was opened


class Ledger(TorchDispatchMode):
    """While it is entered, notes the bytes alive after each operation, by storage: views and saved tensors count once.

    What an operation allocates and frees inside itself (a convolution's workspace) is not seen.

    Args:
        watched: parameters whose gradients are told apart.
    """

    def __init__(self, watched: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.watched = list(watched)
        self.moments: list[Moment] = []
        self.collectives: list[Collective] = []
        self.flops = 0  # floating-point operations; a multiplication and an addition are two
        self._made: dict[int, int] = {}  # bytes by storage
        self._gradients: set[int] = set()  # those of them that are gradients
        self._known: set[int] = set()  # that were there before
        self._others = self._of_gradients = 0

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Leave these out: they were there before and stay."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def __enter__(self) -> "Ledger":
        self.know(self.watched)
        self._hooks = [p.register_post_accumulate_grad_hook(self._is_gradient) for p in self.watched]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs := kwargs or {}))
        if formula := FORMULAS.get(func._overloadpacket):  # FlopCounterMode itself would keep recomputed graphs
            self.flops += formula(*args, **kwargs, out_val=out)
        if func.namespace == "c10d":
            self._note_collective(func, args)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        self.moments.append(Moment(self._of_gradients, self._others))
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._made and key not in self._known:
            self._made[key] = storage.nbytes()
            self._others += storage.nbytes()
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        size = self._made.pop(key)
        if key in self._gradients:
            self._gradients.remove(key)
            self._of_gradients -= size
        else:
            self._others -= size

    def _is_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self._made and key not in self._gradients:
            self._gradients.add(key)
            self._others -= self._made[key]
            self._of_gradients += self._made[key]

    def _note_collective(self, func: Any, args: Any) -> None:
        tensors = [tensor for tensor in tree_leaves(args[0]) if isinstance(tensor, Tensor)]  # where the result goes
        group = next(arg for arg in args if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type()))
        name = func._schema.name
        kind = "all_reduce" if "reduce" in name else "all_to_all" if "alltoall" in name else "gather"
        count = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.collectives.append(Collective(kind, count, ProcessGroup.unbox(group).size()))
