"""The examples of the losses' docstrings run, and each file has one."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from dira_scale.train import losses

OTHERS = "float32", "prototypes_triton"
FILES = sorted(path.stem for path in Path(losses.__file__).parent.glob("[!_]*.py") if path.stem not in OTHERS)


@pytest.mark.parametrize("name", FILES)
def test_the_examples_run(name: str) -> None:
    done = doctest.testmod(import_module(f"{losses.__name__}.{name}"))
    assert done.attempted and not done.failed
