"""A network that a stranger's file describes takes no more memory than the weights beside that file, and no longer."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dira_scale.base.errors import UserError

# What layers are made with.
MAKERS = (
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace, torch.eye
)  # fmt: skip
BESIDE = 2**24  # numbers that a network may have beside its file's: tables of positions, a head that is not loaded
LONGEST = 200  # letters of torch's reason, which may list every tensor
MIN_NUMEL = 1024  # numbers that a tensor counts as, at least: of tiny ones the objects are larger
# Time is counted, not measured, which would depend on the machine. Of timm's networks with most steps, maxvit's of 512
# pixels have 95 a tensor of its weights; all compute at most 10 times as many numbers as they have.
STEPS, STEPS_EACH, TIMES = 2**16, 128, 32


@contextmanager
def as_large_as(weights: Iterable[Tensor], origin: str) -> Iterator[None]:
    """Networks built inside are about as large as ``weights``, and built in as many steps. Raises UserError naming
    ``origin``, which describes them, before a larger one takes memory, and for one that cannot be built."""
    try:
        with _Limited([*map(_size, weights)]):
            yield
    except (_TooLargeError, MemoryError) as error:
        raise UserError(f"{origin} describes a larger network than its weights: restore the file") from error
    except (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:LONGEST]
        raise UserError(f"{origin} describes no network with these weights ({reason}): restore the file") from error


class _TooLargeError(Exception):
    pass


class _Limited(TorchFunctionMode):
    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.memory, self.steps = BESIDE + sum(sizes), STEPS + STEPS_EACH * len(sizes)
        self.computed = TIMES * self.memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MAKERS and str(kwargs.get("device")) != "meta":
            about = {key: value for key, value in kwargs.items() if key not in ("generator", "pin_memory")}
            self.memory -= _size(func(*args, **about | {"device": "meta"}))
        self.steps -= 1
        if min(self.memory, self.steps, self.computed) < 0:
            raise _TooLargeError
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and not result.is_meta:
            self.computed -= result.numel()
        return result


def _size(tensor: Tensor) -> int:
    return max(tensor.numel(), MIN_NUMEL)
