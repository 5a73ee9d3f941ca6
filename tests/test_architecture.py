"""The floor plan of docs/explanation/architecture.md, held by reading every import, those inside functions too."""

import ast
import functools
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

import pytest
from packaging.requirements import Requirement

from dira_scale.commands import COMMANDS

PACKAGE = Path(__file__).parents[1] / "dira_scale"
# What a room may import of its own wing; a file beside rooms is of the room with the wing's name.
WINGS = {
    "base": {
        "errors": set(), "arguments": {"errors"}, "termination": {"errors"}, "config": {"errors", "arguments"},
        "storage": {"errors", "arguments", "config"}, "machine": {"errors", "arguments", "config", "storage"},
    },
    "dataset": {"pixels": set(), "manifest": {"pixels"}, "metrics": set()},
    "archive": {"phantom": set(), "imaging": set(), "archive": {"imaging", "phantom"}},
    "train": {
        "data": set(), "distributed": set(), "runs": {"data", "distributed"},
        "models": {"data", "distributed", "runs"}, "losses": {"distributed"},
        "methods": {"data", "distributed", "losses", "models"}, "engine": {"distributed", "models", "runs"},
        "train": {"data", "distributed", "engine", "runs"},
    },
    "judge": {"tasks": set(), "pages": set(), "evaluation": {"tasks"}},
    "fleet": {"forecast": set()},
}  # fmt: skip
# What a wing may import; a command imports every wing, and no other command.
BELOW = {
    "base": set(), "dataset": {"base"}, "archive": {"base", "dataset"}, "train": {"base", "dataset"},
    "judge": {"base", "dataset", "archive", "train"}, "fleet": {"base", "dataset", "archive", "train", "judge"},
}  # fmt: skip
ROWS = {"command", "commands"}  # the table of commands, which every file may read
TOP = {"api", "cli", *ROWS}  # files beside the commands
LARGEST_FILE, MEDIAN_FILE = 400, 120  # lines
LARGEST_ROOM = 0.15  # of all lines
TRAIN, PRETRAIN = 25_700, 28_600  # lines at most: of the wing, and of all that pretraining by any method imports


@functools.cache
def modules() -> dict[str, Path]:
    """Files by dotted name, without the package's own."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def nodes(module: str) -> list[ast.AST]:
    """All nodes of a file's syntax tree."""
    return [*ast.walk(ast.parse(modules()[module].read_text()))]


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """The trees do not stay for the tests that follow."""
    yield
    nodes.cache_clear()


def everywhere(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds, with its module."""
    return ((name, node) for name in modules() for node in nodes(name) if isinstance(node, kinds))


@functools.cache
def imported(module: str) -> set[str]:
    """The modules that a file imports."""
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


def room(module: str) -> str:
    """A command, a file beside them, or ``WING.ROOM``."""
    first, *rest = module.split(".")
    if first not in WINGS:
        return first
    return f"{first}.{rest[0] if rest and rest[0] in WINGS[first] else first}"


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reach = {node: reached(node) for node in graph}
    found = {frozenset(other for other in reach[node] if node in reach.get(other, ())) for node in graph}
    return [set(one) for one in found if one]


def test_a_folder_imports_only_what_lies_below_it() -> None:
    folders = {name.split(".")[0] for name in modules()} - {"", "__main__"}
    assert folders == WINGS.keys() | COMMANDS.keys() | TOP
    for wing, rooms in WINGS.items():
        inside = {path.parent.name for path in PACKAGE.glob(f"{wing}/*/__init__.py")} - {"sources"}  # of archive itself
        assert inside <= rooms.keys(), "a new library: say here what it may import"
    wrong = [
        f"{name} imports {other}"
        for name in modules()
        for other in imported(name)
        if room(name) != room(other) and not _may(room(name), room(other))
    ]
    assert not wrong


def _may(importer: str, other: str) -> bool:
    wing, _, inside = importer.partition(".")
    other_wing, _, other_inside = other.partition(".")
    if other in ROWS or wing not in WINGS:
        return other == "command" or (importer not in ROWS and other not in COMMANDS)
    if wing == other_wing:
        return other_inside in WINGS[wing].get(inside, ())
    return other_wing in BELOW[wing]


def test_no_file_bears_its_folders_name() -> None:
    assert [str(path) for path in PACKAGE.rglob("*.py") if path.stem == path.parent.name] == []


def test_no_files_and_no_rooms_import_each_other() -> None:
    files = {name: imported(name) - {name} for name in modules()}
    assert circles(files) == []
    rooms: dict[str, set[str]] = {}
    for name, others in files.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    assert circles(rooms) == []


def test_archives_are_sharded_without_torch() -> None:
    """Nothing that they reach imports a package of the extra `train`, not even inside a function."""
    reached = [name for name in modules() if name.startswith(("shard", "archive"))]
    for name in reached:
        reached += imported(name) - {*reached}  # and what these import
    extras = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    train = {Requirement(line).name.replace("-", "_") for line in extras["train"]} | {"sklearn"}
    packages = {
        (name, package.partition(".")[0])
        for name in reached
        for node in nodes(name)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for package in [getattr(node, "module", ""), *(alias.name for alias in node.names)]
    }
    assert [f"{name}: {package}" for name, package in packages if package in train] == []


def test_only_the_factory_imports_a_loader() -> None:
    """And a loader, one that it is made of."""
    inside = {name for name in modules() if name.startswith("train.data.loaders.")}
    loaders = inside - {"train.data.loaders.build"}
    assert [name for name in modules().keys() - inside if imported(name) & loaders] == []


# Of pretraining's configuration, its loss terms and its tensors: words of its own, which readers get by description.
PRETRAINING = {"di", "re", "ad", "method", "stages", "adversary", "epoch_factor", "target_scale", "optim.generator"}
READERS = {"train.engine", "train.runs", "train.models", "judge.pages", "judge.evaluation"}
READERS |= {"sweep", "export", "report", "probe", "embed"}


def test_readers_of_runs_know_nothing_of_pretrainings_configuration() -> None:
    """Exact words. Dotted keys in run names are others; the translations of published weights have timm's names."""
    wrong = [
        f"{name}, line {node.lineno}: {node.value!r}"
        for name, node in everywhere(ast.Constant)
        if room(name) in READERS and name != "train.models.translations" and node.value in PRETRAINING
    ]  # fmt: skip
    assert not wrong


def test_files_and_rooms_stay_small_enough_to_read() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert max(lines.values()) <= LARGEST_FILE
    assert median(lines.values()) < MEDIAN_FILE
    rooms = Counter[str]()
    for name, count in lines.items():
        rooms[room(name)] += count
    assert {name: count for name, count in rooms.items() if count > LARGEST_ROOM * sum(lines.values())} == {}


def test_the_core_of_training_stays_small_enough_to_own() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert sum(count for name, count in lines.items() if name.startswith("train.")) <= TRAIN
    used, waiting = set[str](), {name for name in lines if name.startswith(("pretrain", "train.methods"))}
    while waiting:
        used |= waiting
        waiting = {other for name in waiting for other in imported(name)} & lines.keys() - used
    assert sum(lines[name] for name in used) <= PRETRAIN


def test_nobody_asks_which_task_it_is() -> None:
    """A task's class, its keys and its rows are told apart by what they have, not by their names."""
    tasks = {"Classification", "Segmentation", "Regression", "LabelTask", "MaskTask", "RegressionTask", "Supervision"}
    tasks |= {"Candidates", "CandidateTask", "CandidateCase", "LabelCase", "MaskCase", "NumberCase"}
    tasks |= {"Ordinal", "OrdinalTask", "Survival", "SurvivalTask", "SurvivalCase"}
    requested = [
        f"{name}:{node.lineno}"
        for name, node in everywhere(ast.Call, ast.Compare)
        if isinstance(node, ast.Compare) or ast.unparse(node.func) in ("isinstance", "issubclass")
        if tasks & {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    ]  # fmt: skip
    assert requested == []
