"""The extra that computes metrics is asked for in one line, before anything takes seconds."""

import importlib.util

import pytest

from dira_scale.errors import UserError
from dira_scale.metrics import libraries


def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.require_libraries()  # the tests' environment has both
    there = importlib.util.find_spec
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "monai" else there(name))
    with pytest.raises(UserError, match=r"monai not installed.*setup/install.py .*'dira_scale\[evaluation\]'"):
        libraries.require_libraries()
