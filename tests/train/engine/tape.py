"""CUDA graphs on a CPU: operations on fixed memory, done again in order. What a graph cannot do raises here, too."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dira_scale.train.data import distort
from dira_scale.train.data.distort import colour
from dira_scale.train.data.distort.corruptions import draws, local_shuffle
from dira_scale.train.engine import graph

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        masks = func is aten.index.Tensor and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        if func in READS or masks:
            raise RuntimeError(f"the host reads the result of {func}")
        result = func(*args, **kwargs)
        self.done.append((func, args, kwargs, result))  # views, too: their memory is to stay
        return result

    @torch.no_grad()
    def again(self) -> None:
        for func, args, kwargs, result in self.done:
            before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            own = [x for x in tree_leaves(result) if isinstance(x, Tensor) and x.untyped_storage()._cdata not in before]
            if own or func._schema.is_mutable:
                for x, y in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(x, Tensor) and x.untyped_storage()._cdata != y.untyped_storage()._cdata:
                        x.copy_(y)


class Tape:
    """See ``dira_scale.base.machine.graphs.Graphs``."""

    runs = True
    replayed = 0  # parts, of all tapes

    def __init__(self, device: torch.device) -> None:
        pass

    def session(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def begin(self) -> None:
        self.operations = Operations()
        self.operations.__enter__()

    def end(self) -> Callable[[], None]:
        self.operations.__exit__(None, None, None)
        again = self.operations.again

        def replay() -> None:
            Tape.replayed += 1
            again()

        return replay


def as_on_a_gpu(put: Callable[[Any, str, Any], None]) -> None:
    """``put`` in place of what a CPU does: a tape, and the distortions of a GPU, of all samples at once."""
    put(graph, "GRAPHS", {"cpu": Tape})
    put(distort.build, "__defaults__", (distort.BatchedDistort,))
    for module in (draws, local_shuffle, colour):
        put(module, "one_by_one", lambda x: False)
