"""Code that tests hand to other processes as text imports names that exist: no linter looks into strings."""

import ast
import re
from importlib import import_module
from pathlib import Path

TESTS = Path(__file__).parent


def imports_in_strings() -> set[tuple[str, str]]:
    """Module and name of every ``from dira_scale… import …`` inside a string."""
    found = set()
    for file in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for module, names in re.findall(r"from (dira_scale[\w.]*) import ([\w, ]+)", node.value):
                    found |= {(module, name.split(" as ")[0].strip()) for name in names.split(",")}
    return found


def test_names_in_strings_exist() -> None:
    missing = []
    for module, name in imports_in_strings():
        if not hasattr(import_module(module), name):
            try:
                import_module(f"{module}.{name}")
            except ImportError:
                missing.append(f"{module}.{name}")
    assert missing == []
