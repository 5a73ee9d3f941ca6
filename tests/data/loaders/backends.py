"""Every loader that is installed here, for tests that hold for all of them."""

from collections.abc import Callable
from typing import Any

import pytest

from dira_scale.data.loaders import Loader
from dira_scale.data.loaders.build import choose

# By the name of the test's parameter: how to build it from ``Loader``'s arguments.
BACKENDS: dict[str, Callable[..., Loader]] = {
    "cpu": lambda **arguments: choose("cpu").build(**arguments),
    "threads": lambda **arguments: choose("cpu").build(**{"workers": 3, "prefetch": 2} | arguments),
    "helper": lambda **arguments: choose("cpu").in_helper().build(**arguments),
}
SLOW = ("helper",)  # a process to start: in the system tier


def parameters() -> list[Any]:
    """The names of all loaders, the slow ones marked."""
    return [pytest.param(name, marks=[pytest.mark.system] if name in SLOW else []) for name in BACKENDS]
