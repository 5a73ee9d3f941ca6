"""Every loader that is installed here, for tests that hold for all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from needs import need_extra

from dira_scale.train.data.loaders import Loader, LoaderSpec
from dira_scale.train.data.loaders.build import choose

# By the name of the test's parameter: how to build it from ``Loader``'s arguments.
BACKENDS: dict[str, Callable[..., Loader]] = {
    "cpu": lambda **arguments: choose("cpu").build(LoaderSpec(**arguments)),
    "threads": lambda **arguments: choose("cpu").build(LoaderSpec(**{"workers": 3, "prefetch": 2} | arguments)),
    "helper": lambda **arguments: choose("cpu").build(LoaderSpec(**arguments), 2),
    "stream": lambda **arguments: choose("stream").build(LoaderSpec(**arguments)),
    "dali": lambda **arguments: choose("dali").build(LoaderSpec(**arguments)),
}
SLOW = ("helper",)  # a process to start: in the system tier


def parameters() -> list[Any]:
    """The names of all loaders, the slow ones marked."""
    return [pytest.param(name, marks=[pytest.mark.system] if name in SLOW else []) for name in BACKENDS]


QUICK = [name for name in BACKENDS if name not in SLOW]  # test_helper.py compares the helper's batches with theirs


def build(name: str, **arguments: Any) -> Loader:
    """A loader; skips where its package is missing, unless that is required (DIRA_SCALE_REQUIRE)."""
    if name == "dali":
        need_extra("dali")
    return BACKENDS[name](**arguments)
