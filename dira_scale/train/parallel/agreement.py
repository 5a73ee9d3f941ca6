"""What one process finds out and all must know."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from dira_scale.errors import UserError

T = TypeVar("T")


def on_main(accelerator: Accelerator, function: Callable[[], T]) -> T | None:
    """``function()`` on the main process, None on the others; its ``UserError`` is raised on all of them.

    What only the main process can find out (another writer, another run's folder) must not leave the rest waiting.
    """
    result, error = None, [""]
    if accelerator.is_main_process:
        try:
            result = function()
        except UserError as problem:
            error = [str(problem)]
    broadcast_object_list(error)
    if error[0]:
        raise UserError(error[0])
    return result


def from_main(value: T) -> T:
    """The main process's ``value``, on all of them."""
    values = [value]
    broadcast_object_list(values)
    return values[0]
