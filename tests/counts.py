"""The house's figures beside their ceilings: ``python tests/counts.py``. With a figure's name, what it counts; with
``--lower``, every ceiling that a figure has got below falls. Read from the sources alone, in seconds."""

import argparse
import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median

import yaml
from sources import PACKAGE, ROOT, WINGS, everywhere, imported, modules, nodes, reached
from walks import returns, walk

CEILINGS = Path(__file__).with_name("ceilings.yaml")
LONG = 60  # lines of a function, without its docstring
LIBRARIES = ("train.losses", "train.models", "train.methods", "train.data", "archive.imaging", "dataset")
KEY = re.compile(r"\b[a-z_]+(\.[a-z_]+)*=")  # a key of the command line, which a library does not know
WALKS = {
    "run_task": ("train.engine.run:run_task",),
    "DICOM to shard": ("shard.convert:convert",),
    "sample to loss": (
        "train.data.loaders.cpu:CpuLoader.iterate",
        "pretrain.step:Pretraining.losses",
        "train.methods.dira:DiRA.forward",
    ),
    "network build": ("finetune.network:build",),
    "finish": ("finetune.task:FinetuneTask.finish",),
    "compared": ("judge.evaluation.comparison:compared",),
}  # fmt: skip
FOLDERS = {"tests": "*.py", "benchmarks": "*.py", "configs": "*.yaml", "shards": "*.yaml", "slurm": "*.yaml"}
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
Figures = dict[str, tuple[float, list[str]]]  # by name: how much, and of what


def figures() -> Figures:
    """All of them."""
    return dict(_sizes()) | {name: (len(found), found) for name, found in _counted()}


def parts(row: int | Mapping[str, int]) -> Mapping[str, int]:
    """A ceiling as in the file: where it began, and what the budgets of issues have added."""
    return row if isinstance(row, Mapping) else {"start": row}


def allowed() -> dict[str, float]:
    """How much each figure may be."""
    read = yaml.safe_load(CEILINGS.read_text())
    return read["limits"] | {name: sum(parts(row).values()) for name, row in read["ceilings"].items()}


def _sizes() -> Iterator[tuple[str, tuple[float, list[str]]]]:
    files = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    groups = defaultdict[str, dict[str, int]](dict)
    rooms = Counter[str]()
    for name, count in files.items():
        wing, *inside = name.split(".")
        groups["package"][name] = groups[wing if wing in WINGS else "commands"][name] = count
        rooms["/".join([wing, *inside[:1]]) if (PACKAGE / wing / "".join(inside[:1])).is_dir() else wing] += count
    groups["pretraining and all it imports"] = {name: files[name] for name in reached("pretrain", "train.methods")}
    for folder, pattern in FOLDERS.items():
        groups[folder] = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob(pattern)}
    words = {path.relative_to(ROOT).as_posix(): len(path.read_text().split()) for path in (ROOT / "docs").rglob("*.md")}
    for name, counts in sorted(groups.items()):
        yield f"lines of {name}", (sum(counts.values()), _largest(counts))
    yield "lines of the largest file", (max(files.values()), _largest(files))
    yield "lines of the median file", (median(files.values()), _largest(files))
    yield "per cent of lines in the largest room", (100 * max(rooms.values()) / sum(files.values()), _largest(rooms))
    yield "words of docs", (sum(words.values()), _largest(words))
    guides = {name: count for name, count in words.items() if name.startswith("docs/how-to")}
    yield "words of the longest how-to page", (max(guides.values()), _largest(guides))
    yield "words of README", (len((ROOT / "README.md").read_text().split()), ["README.md"])


def _largest(counts: Mapping[str, int]) -> list[str]:
    return [f"{count:>7,} {name}" for name, count in sorted(counts.items(), key=lambda one: -one[1])]


def _counted() -> Iterator[tuple[str, list[str]]]:
    for name in modules():
        if name.split(".")[-1] in ("blueprint", "task", "make"):
            yield f"imports of {name}", sorted(imported(name))
    raised = [(name, node) for name, node in everywhere(ast.Raise) if isinstance(node.exc, ast.Call)]
    keyed = ((name, node) for name, node in raised if name.startswith(LIBRARIES) and KEY.search(_message(node)))
    yield "keys in library errors", _places(keyed)
    yield (
        "UserErrors raised",
        _places((name, node) for name, node in raised if ast.unparse(node.exc.func) == "UserError"),
    )
    functions = [(name, node) for name, node in everywhere(FUNCTIONS)]
    inside = {id(inner): (name, inner) for name, node in functions for inner in ast.walk(node)}
    yield (
        "lazy imports in functions",
        _places(at for at in inside.values() if isinstance(at[1], ast.Import | ast.ImportFrom)),
    )
    lazily = [(name, node) for name, node in everywhere(ast.With) if "lazy_imports" in ast.unparse(node.items[0])]
    yield "lazy imports by lazy_imports()", _places((name, inner) for name, node in lazily for inner in node.body)
    uses = {name: Counter(getattr(node, "id", getattr(node, "attr", "")) for node in nodes(name)) for name in modules()}
    once = ((at, node) for at, node in functions if re.match("_(?!_)", node.name) and uses[at][node.name] == 1)
    yield "private functions used once", _places(once)
    classes = defaultdict[str, list[str]](list)
    for name, node in everywhere(ast.ClassDef):
        classes[node.name].append(name)
    yield "class names with several meanings", [f"{name}: {of}" for name, of in classes.items() if len(of) > 1]
    pooled = ((name, node) for name, node in everywhere(ast.Attribute) if node.attr == "pooled")
    yield ".pooled outside tasks", _places(at for at in pooled if not at[0].startswith("judge.tasks"))
    yield f"functions above {LONG} lines", _places((name, node) for name, node in functions if _body(node) > LONG)
    lines = [
        (f"{name}:{n} {line}", line)
        for name, path in modules().items()
        for n, line in enumerate(path.read_text().splitlines(), 1)
    ]
    for mark in ("fmt: skip", "type: ignore"):
        yield mark, [place for place, line in lines if f"# {mark}" in line]
    for title, starts in WALKS.items():
        stays = walk(*starts)
        yield f"stays from {title}", [f"{'  ' * stay.depth}{stay.module} {stay.name}" for stay in stays]
        yield f"returns from {title}", [f"{stay.module} {stay.name}" for stay in returns(stays)]


def _places(found: Iterable[tuple[str, ast.AST]]) -> list[str]:
    return [f"{name}:{node.lineno} {ast.unparse(node).splitlines()[0][:90]}" for name, node in found]


def _message(node: ast.AST) -> str:
    """The text of an error, without what is put into it."""
    inner = (one.value for one in ast.walk(node) if isinstance(one, ast.Constant))
    return " ".join(value for value in inner if isinstance(value, str))


def _body(node: FUNCTIONS) -> int:
    first = node.body[len(node.body) > 1 and ast.get_docstring(node) is not None]
    return node.end_lineno - first.lineno + 1


def lowered(row: int | Mapping[str, int], value: float) -> int | dict[str, int]:
    """A ceiling that a figure has got below: what was added last falls first."""
    left, spare = dict(parts(row)), max(0, sum(parts(row).values()) - int(value))
    for part in reversed(parts(row)):
        left[part], spare = left[part] - min(spare, left[part]), max(0, spare - left[part])
    left = {part: amount for part, amount in left.items() if amount or part == "start"}
    return left if len(left) > 1 else left["start"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", nargs="?", help="list what it counts")
    parser.add_argument("--lower", action="store_true", help="lower ceilings to what stands today")
    arguments, found = parser.parse_args(), figures()
    if arguments.figure:
        return print(*found[arguments.figure][1], sep="\n")
    if arguments.lower:
        head, read = CEILINGS.read_text().partition("limits:")[0], yaml.safe_load(CEILINGS.read_text())
        read["ceilings"] = {name: lowered(row, found[name][0]) for name, row in read["ceilings"].items()}
        CEILINGS.write_text(head + yaml.safe_dump(read, sort_keys=False, width=120))
    most = allowed()
    print(f"{'':<42}{'today':>9}{'at most':>9}")
    for name, (value, _) in found.items():
        print(f"{name:<42}{value:>9,.6g}{most[name]:>9,.6g}{'  above' * (value > most[name])}")


if __name__ == "__main__":
    main()
