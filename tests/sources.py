"""The package's files and their syntax trees, read once; nothing of it is imported."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dira_scale"
WINGS = ("base", "dataset", "archive", "train", "judge", "fleet")


@functools.cache
def modules() -> dict[str, Path]:
    """Files by dotted name, without the package's own."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def nodes(module: str) -> list[ast.AST]:
    """All nodes of a file's syntax tree; the first is the file."""
    return [*ast.walk(ast.parse(modules()[module].read_text()))]


def everywhere(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds, with its module."""
    return ((name, node) for name in modules() for node in nodes(name) if isinstance(node, kinds))


@functools.cache
def imported(module: str) -> set[str]:
    """The modules that a file imports, inside functions too."""
    found, known = set(), modules()
    for node in nodes(module):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module}: write imports in full"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dira_scale":
            base = node.module.partition(".")[2]
            found |= {name if (name := f"{base}.{alias.name}".lstrip(".")) in known else base for alias in node.names}
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names if alias.name.startswith("dira_scale."))
            found |= {name.partition(".")[2] for name in names}
    return found - {""}


def reached(*starts: str) -> set[str]:
    """The modules whose names begin so, with all that they import."""
    used, waiting = set[str](), {name for name in modules() if name.startswith(starts)}
    while waiting:
        used |= waiting
        waiting = {other for name in waiting for other in imported(name)} & modules().keys() - used
    return used
