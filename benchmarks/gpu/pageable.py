"""Copies to a GPU that wait though they are asked for as non-blocking, as their source is not pinned.

The driver must stage pages that may move, and returns when it has read them all; of few bytes it takes a copy at once.
torch.cuda.set_sync_debug_mode says nothing of these.
"""

import traceback
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

STAGED = 64 * 1024  # bytes


def pageable(func: Any, args: Any, kwargs: Any, pinned: Callable[[Tensor], bool] = Tensor.is_pinned) -> bool:
    """Whether a dispatched operation is a non-blocking copy to a device of more than ``STAGED`` bytes of the host's
    that are not ``pinned``."""
    name = func.overloadpacket.__name__
    if name == "_to_copy" and kwargs.get("non_blocking") and kwargs.get("device") is not None:
        source, target = args[0], kwargs["device"].type
    elif name == "copy_" and (kwargs.get("non_blocking") or args[2:] == (True,)):
        source, target = args[1], args[0].device.type
    else:
        return False
    return source.device.type == "cpu" != target and source.nbytes > STAGED and not pinned(source)


class PageableCopies(TorchDispatchMode):
    """A context that notes in ``found`` the stack of each such copy; within it operations take the host longer."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[traceback.StackSummary] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if pageable(func, args, kwargs or {}):
            self.found.append(traceback.extract_stack())
        return func(*args, **(kwargs or {}))
