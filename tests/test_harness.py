"""The names that tests hand to other processes, in text, exist."""

import re
from importlib import import_module
from pathlib import Path

from dira_scale.errors import UserError


def test_names_that_tests_import_in_text_exist() -> None:
    """Code that is handed to other processes is a string, into which no linter looks."""
    found = {
        (module, name.split(" as ")[0].strip())
        for file in Path(__file__).parent.rglob("*.py")
        if "toy" not in file.parts  # commands of another checkout
        for module, names in re.findall(r"from (dira_scale[\w.]*) import ([\w, ]+)", file.read_text())
        for name in names.split(",")
    }
    assert sorted(names for names in found if not exists(*names)) == []


def exists(module: str, name: str) -> bool:
    """Whether ``from module import name`` works, or lacks no more than a package."""
    try:
        return hasattr(import_module(module), name) or bool(import_module(f"{module}.{name}"))
    except ImportError:
        return False
    except UserError:
        return True
