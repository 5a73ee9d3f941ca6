"""Parameters of which a process holds its rows alone, from the moment when their module is built.

Each tensor is drawn whole, as by a process that holds the module, and cut at once: its values, and what the generator
returns next, are those of a module that is built whole.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._pytree import tree_map_only

T = TypeVar("T")
# Operations on each row, beside those that torch calls pointwise.
BY_ROWS = ("clone", "copy_", "fill_", "zero_", "_to_copy")


class CannotCutError(Exception):
    """An operation of a constructor whose result by rows we do not know. Not one of the errors that those raise."""


@dataclass(frozen=True)
class RowShare:
    """The part of a sharded module that a process holds: number ``index`` of ``shards``; by default all of it."""

    index: int = 0
    shards: int = 1

    def start(self, rows: int) -> int:
        """Return its first of so many rows: parts are as torch.chunk and FSDP2 make them, the last ones shorter."""
        return min(self.index * -(-rows // self.shards), rows)

    def of(self, tensor: Tensor) -> Tensor:
        """Return its rows of ``tensor``, whose memory they share."""
        following = RowShare(self.index + 1, self.shards)
        return tensor[self.start(len(tensor)) : following.start(len(tensor))]


_share: ContextVar[RowShare] = ContextVar("share")


class Rows:
    """What a process has of a parameter, for this and all that is detached of it.

    Constructors look at what they have drawn, to draw parts again. So the ``whole`` is kept until the next is drawn.
    """

    last: ClassVar["Rows | None"] = None  # the one that has its whole
    room: ClassVar[Tensor] = torch.empty(0)  # of all wholes: between rows, what is freed would stay with the process

    def __init__(self, local: Tensor, share: RowShare) -> None:
        self.local, self.share, self.whole = local, share, None

    whole: Tensor | None

    def draw(self, draw: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        Rows.settle()
        if Rows.room.dtype != self.local.dtype or len(Rows.room) < shape.numel():
            Rows.room = torch.empty(0)
            Rows.room = self.local.new_empty(shape.numel())
        Rows.last, self.whole = self, draw(Rows.room[: shape.numel()].view(shape))

    @staticmethod
    def settle() -> None:
        """Cut the whole that is kept."""
        if (rows := Rows.last) and rows.whole is not None:
            rows.local.copy_(rows.share.of(rows.whole))
            Rows.last = rows.whole = None


class Cut(Tensor):
    """A parameter with the shape of the whole, of which this process has :class:`Rows`. It takes the operations by
    which parameters are initialised, loaded and copied, and raises CannotCutError for others."""

    rows: Rows
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, rows: Rows, shape: torch.Size) -> "Cut":
        like = rows.local
        cut: Cut = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=like.device)
        cut.rows = rows
        return cut

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        name, cut, kwargs = func.overloadpacket.__name__, args[0], kwargs or {}
        if isinstance(cut, Cut):
            if name in ("alias", "detach"):
                return Cut(cut.rows, cut.shape)
            untouched = torch.empty(cut.shape, dtype=cut.dtype, device=cut.device)  # memory that is not used yet
            if str(kwargs.get("device")) == "meta" or name.startswith("new_") or name.endswith("_like"):
                return func(untouched, *args[1:], **kwargs)  # reads no values
            if torch.Tag.nondeterministic_seeded in func.tags and name.endswith("_"):
                cut.rows.draw(lambda whole: func(whole, *args[1:], **kwargs), cut.shape)
                return cut
        wholes = tree_map_only(Cut, lambda x: x.rows.whole, args)
        if not any(whole is None and isinstance(x, Cut) for whole, x in zip(wholes, args, strict=True)):
            result = func(*wholes, **kwargs)
            if isinstance(cut, Cut) and name.endswith("_"):
                return cut
            if any(returned.alias_info for returned in func._schema.returns):
                raise CannotCutError(f"{func}: a view")
            return result
        if isinstance(cut, Cut) and (name in BY_ROWS or torch.Tag.pointwise in func.tags):
            local = func(*map(cut.part, args), **kwargs)
            return cut if name.endswith("_") else Cut(Rows(local, cut.share), cut.shape)
        raise CannotCutError(f"{func} of rows")

    @property
    def share(self) -> RowShare:
        return self.rows.share

    @property
    def local(self) -> Tensor:
        Rows.settle()
        return self.rows.local

    @local.setter
    def local(self, local: Tensor) -> None:
        self.rows.local = local

    def part(self, value: Any) -> Any:
        """Return what an operation on this one's rows takes where that on the whole takes ``value``."""
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        if value.shape != self.shape or (isinstance(value, Cut) and value.share != self.share):
            raise CannotCutError(f"{tuple(value.shape)} and rows of {tuple(self.shape)}")
        return value.local if isinstance(value, Cut) else self.share.of(value)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        torch.utils.swap_tensors(self, _cut(nn.Parameter(value, self.requires_grad), self.share))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Cut":
        rows = Rows(self.local.clone(), self.share)
        memo[id(self)] = nn.Parameter(Cut(rows, self.shape), self.requires_grad)
        return memo[id(self)]


def built(make: Callable[[], T], share: RowShare) -> T:
    """``make()``, its modules' matrices cut to ``share`` as they are registered; by vectors constructors may decide.

    Where a constructor needs a whole matrix, all are whole.
    """
    state = torch.get_rng_state()
    try:
        with cutting(share):
            return make()
    except CannotCutError:
        torch.set_rng_state(state)
    return make()


@contextmanager
def cutting(share: RowShare) -> Iterator[None]:
    """Cut matrices as they are registered in modules; ``RowShare()`` keeps them whole, also where others are cut."""
    hook, before = register_module_parameter_registration_hook(cut_matrix), _share.set(share)
    try:
        yield
    finally:
        hook.remove()
        _share.reset(before)
        Rows.settle()
        Rows.room = torch.empty(0)


def cut_all(module: nn.Module, share: RowShare) -> None:
    """Cut what is still whole of the parameters of ``module``."""
    if share.shards > 1:
        made = {id(parameter): _cut(parameter, share) for parameter in module.parameters()}
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and made[id(parameter)] is not parameter:
                    setattr(part, name, made[id(parameter)])


def cut_matrix(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
    """In place, so that whoever has the tensor has its rows."""
    share = _share.get(RowShare())
    if parameter is not None and parameter.dim() > 1 and share.shards > 1:
        cut = _cut(parameter, share)
        if cut is not parameter:
            try:
                torch.utils.swap_tensors(parameter, cut)
            except RuntimeError as error:  # something in torch has it, too
                raise CannotCutError(str(error)) from error


def _cut(parameter: nn.Parameter, share: RowShare) -> nn.Parameter:
    if type(parameter) is not nn.Parameter or not parameter.dim() or parameter.is_meta:
        return parameter
    part = share.of(parameter.detach())
    longest = part.new_empty(RowShare(0, share.shards).of(parameter).shape)  # FSDP2 pads, and freed memory should fit
    return nn.Parameter(Cut(Rows(longest[: len(part)].copy_(part), share), parameter.shape), parameter.requires_grad)
