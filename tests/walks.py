"""A reader's walk: the functions of ours in the order in which a named one calls them, each entered once.

Read from the sources alone. A call is followed where the file imports or defines its function's name, and where the
class of its object is annotated or known from what made the object. Of a method that subclasses define, the annotated
class's is entered. Arguments come before the call; a function that is handed to another is entered there, and a nested
one where it is defined.
"""

import ast
import functools
from collections.abc import Iterator
from typing import NamedTuple

from sources import modules, nodes

Definition = ast.FunctionDef | ast.ClassDef


class Found(NamedTuple):
    """A function or a class. ``owner``: the class by which a method was found."""

    module: str
    node: Definition
    owner: "Found | None" = None


class Stay(NamedTuple):
    depth: int
    module: str
    name: str


@functools.cache
def _names(module: str) -> dict[str, tuple[str, str] | Definition]:
    """A file's own functions and classes, and what of ours it imports: (module, name)."""
    found: dict[str, tuple[str, str] | Definition] = {}
    for node in nodes(module):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dira_scale":
            base = node.module.partition(".")[2]
            found |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
    return found | {node.name: node for node in nodes(module)[0].body if isinstance(node, Definition)}


def _named(module: str, name: str) -> Found | str | None:
    """What a file means by a name: a definition, or a module."""
    entry = _names(module).get(name)
    if isinstance(entry, tuple):
        inner = ".".join(filter(None, entry))
        return inner if inner in modules() else _named(*entry) if entry[0] in modules() else None
    return Found(module, entry) if entry else None


def _constant(module: str, node: ast.expr) -> Found | str | None:
    """What an expression of dotted names means."""
    if isinstance(node, ast.Name):
        return _named(module, node.id)
    if isinstance(node, ast.Attribute) and isinstance(inner := _constant(module, node.value), str):
        return _named(inner, node.attr) if inner in modules() else None
    return None


def _class(module: str, annotation: ast.expr | None) -> Found | None:
    """The class of ours that an annotation names first."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):
        return _class(module, annotation.left) or _class(module, annotation.right)
    found = _constant(module, annotation) if annotation else None
    return found if isinstance(found, Found) and isinstance(found.node, ast.ClassDef) else None


def _lineage(owner: Found) -> Iterator[Found]:
    """A class, then its bases."""
    yield owner
    for base in owner.node.bases:
        if found := _class(owner.module, base.value if isinstance(base, ast.Subscript) else base):
            yield from _lineage(found)


def _method(owner: Found | str | None, name: str, skip: int = 0) -> Found | None:
    of_class = isinstance(owner, Found) and isinstance(owner.node, ast.ClassDef)
    for holder in [*_lineage(owner)][skip:] if of_class else ():
        for node in holder.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return Found(holder.module, node, owner)
    return None


class Scope:
    """The classes of a function's names."""

    def __init__(self, function: Found) -> None:
        self.module, arguments = function.module, function.node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self.classes = {one.arg: _class(self.module, one.annotation) for one in named}
        if function.owner and named:
            self.classes[named[0].arg] = function.owner

    def called(self, node: ast.expr) -> Found | None:
        """The function or class that a call of this expression enters; of an object, what it does when it is called."""
        owner = self.kind(node)
        return self.meant(node) or _method(owner, "__call__") or _method(owner, "forward")

    def meant(self, node: ast.expr) -> Found | None:
        """The function or class that this expression is."""
        found = None if isinstance(node, ast.Name) and node.id in self.classes else _constant(self.module, node)
        if isinstance(found, Found):
            return found
        if isinstance(node, ast.Attribute):
            if ast.unparse(node.value) == "super()" and (own := self.classes.get("self")):
                return _method(own, node.attr, skip=1)
            owner = self.kind(node.value) or _constant(self.module, node.value)  # or a class: one of its own methods
            return _method(owner, node.attr)
        return None

    def kind(self, node: ast.expr | None) -> Found | None:
        """The class of an expression's value."""
        if isinstance(node, ast.Name):
            return self.classes.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := self.kind(node.value)):
            return _attribute(owner, node.attr)
        if isinstance(node, ast.Call) and (function := self.called(node.func)):
            if isinstance(function.node, ast.ClassDef):
                return function
            own = ast.unparse(function.node.returns or node) == "Self"
            return function.owner if own else _class(function.module, function.node.returns)
        return None


_ATTRIBUTES: dict[tuple[ast.AST, str], Found | None] = {}


def _attribute(owner: Found, name: str) -> Found | None:
    """The class of an object's attribute."""
    if (key := (owner.node, name)) not in _ATTRIBUTES:
        _ATTRIBUTES[key] = None  # while it is looked for: one may be made of itself
        _ATTRIBUTES[key] = next(filter(None, _attributes(owner, name)), None)
    return _ATTRIBUTES[key]


def _attributes(owner: Found, name: str) -> Iterator[Found | None]:
    if (method := _method(owner, name)) and "property" in "".join(map(ast.unparse, method.node.decorator_list)):
        yield _class(method.module, method.node.returns)
    for holder in _lineage(owner):
        for node in holder.node.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
                yield _class(holder.module, node.annotation)
            elif isinstance(node, ast.FunctionDef):
                scope = Scope(Found(holder.module, node, holder))
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Assign) and len(inner.targets) == 1:
                        sides = [getattr(side, "elts", [side]) for side in (inner.targets[0], inner.value)]
                        for target, value in zip(*sides, strict=False):  # a, b = c, d is taken one by one
                            if ast.unparse(target) == f"self.{name}":
                                yield scope.kind(value)


def walk(*starts: str) -> list[Stay]:
    """The stays of each ``module:function`` or ``module:Class.method``, one after another."""
    stays, entered = list[Stay](), set[int]()
    for start in starts:
        module, _, path = start.partition(":")
        owner, _, method = path.partition(".")
        found = _named(module, owner)
        _enter(_method(found, method) if method else found, 0, stays, entered)
    return stays


def _enter(function: Found, depth: int, stays: list[Stay], entered: set[int]) -> None:
    if isinstance(function.node, ast.ClassDef):
        for name in ("__init__", "__post_init__"):
            if method := _method(function, name):
                _enter(method, depth, stays, entered)
        return
    if id(function.node) in entered:
        return
    entered.add(id(function.node))
    owner = f"{function.owner.node.name}." if function.owner else ""
    stays.append(Stay(depth, function.module, f"{owner}{function.node.name}"))
    scope = Scope(function)

    def visit(node: ast.AST) -> None:
        for inner in ast.iter_child_nodes(node):
            visit(inner)
        if isinstance(node, ast.Call):
            handed = [one for argument in node.args if (one := scope.meant(argument))]
            for one in [*(one for one in handed if isinstance(one.node, ast.FunctionDef)), scope.called(node.func)]:
                if one:
                    _enter(one, depth + 1, stays, entered)
        elif isinstance(node, ast.Assign):
            scope.classes |= {one.id: scope.kind(node.value) for one in node.targets if isinstance(one, ast.Name)}
        elif isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            scope.classes[node.optional_vars.id] = scope.kind(node.context_expr)

    for statement in function.node.body:
        visit(statement)


def returns(stays: list[Stay]) -> list[Stay]:
    """Those whose file was left before."""
    found, left, here = [], set[str](), ""
    for stay in stays:
        if stay.module != here:
            if stay.module in left:
                found.append(stay)
            left.add(here)
            here = stay.module
    return found
