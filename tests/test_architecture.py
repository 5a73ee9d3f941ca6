"""The floor plan of docs/explanation/architecture.md, held by reading every import, those inside functions too."""

import ast
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise
from typing import Any

import counts
import pytest
import yaml
from counts import CEILINGS
from packaging.requirements import Requirement
from sources import PACKAGE, ROOT, everywhere, imported, modules, nodes, reached
from walks import returns, walk

from dira_scale.commands import COMMANDS

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


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """The trees do not stay for the tests that follow."""
    yield
    nodes.cache_clear()


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
    benchmarks = {}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        others = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        benchmarks[".".join(path.relative_to(ROOT).with_suffix("").parts)] = others | {node.module for node in froms}
    assert circles(benchmarks) == []
    rooms: dict[str, set[str]] = {}
    for name, others in files.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    assert circles(rooms) == []


def test_archives_are_sharded_without_torch() -> None:
    """Nothing that they reach imports a package of the extra `train`, not even inside a function."""
    extras = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    train = {Requirement(line).name.replace("-", "_") for line in extras["train"]} | {"sklearn"}
    packages = {
        (name, package.partition(".")[0])
        for name in reached("shard", "archive")
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


def test_no_figure_is_above_its_ceiling_nor_a_ceiling_above_what_was_won() -> None:
    found, read = counts.figures(), yaml.safe_load(CEILINGS.read_text())
    assert found.keys() == read["limits"].keys() | read["ceilings"].keys()
    most = counts.allowed()
    wrong = [
        f"{name}: {value:,.6g}, and until now at most {most[name]:,}. python tests/counts.py {name!r} lists them: take "
        "as much away in this commit, or raise it by an issue's budget, with its title (tests/ceilings.yaml)"
        for name, (value, _) in found.items()
        if value > most[name]
    ]
    wrong += [
        f"{name}: {found[name][0]:,.6g}, fewer than ever: python tests/counts.py --lower, in this commit"
        for name, row in read["ceilings"].items()
        if found[name][0] < counts.parts(row)["start"]
    ]
    assert not wrong, "\n".join(wrong)


def test_ceilings_only_fall() -> None:
    """Or get the title of an issue beside them, in every commit since they are here."""
    git = ["git", "-C", str(CEILINGS.parent)]
    commits = subprocess.run([*git, "log", "--format=%H", "--", CEILINGS.name], capture_output=True, text=True)
    if commits.returncode:
        pytest.skip("no git checkout")
    versions = [
        subprocess.run([*git, "show", f"{commit}:./{CEILINGS.name}"], capture_output=True, text=True, check=True).stdout
        for commit in commits.stdout.split()
    ]
    ceilings = [yaml.safe_load(content) for content in [CEILINGS.read_text(), *versions]]
    assert [line for after, before in pairwise(ceilings) for line in raised(before, after)] == []


def raised(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The figures whose ceiling rises otherwise than by a part of a new name."""
    wrong = [name for name, most in before["limits"].items() if after["limits"].get(name, most) > most]
    for name, row in before["ceilings"].items():
        then, now = counts.parts(row), counts.parts(after["ceilings"].get(name, row))
        wrong += [f"{name} of {part}" for part in then.keys() & now.keys() if now[part] > then[part]]
    return wrong


def test_only_a_title_raises_a_ceiling_and_what_is_won_is_taken_from_the_last() -> None:
    def wrong(before: Any, after: Any) -> list[str]:
        return raised({"limits": {}, "ceilings": {"a": before}}, {"limits": {}, "ceilings": {"a": after}})

    row = {"start": 5, "One": 2}
    assert [wrong(5, after) for after in (5, 4, row, 6, row | {"start": 6})] == [[], [], [], *[["a of start"]] * 2]
    assert [wrong(row, after) for after in (row | {"One": 3}, 7, 5)] == [["a of One"], ["a of start"], []]
    assert raised({"limits": {"a": 4}, "ceilings": {}}, {"limits": {"a": 5}, "ceilings": {}}) == ["a"]
    lowered = [counts.lowered(row | {"Other": 3}, value) for value in (10, 8, 6, 5, 3)]
    assert lowered == [row | {"Other": 3}, row | {"Other": 1}, {"start": 5, "One": 1}, 5, 3]


def test_a_walk_enters_each_function_once_and_returns_to_files_that_it_left() -> None:
    stays = walk("judge.evaluation.comparison:compared")
    assert [stay.name for stay in stays[:3]] == ["compared", "finished", "read_description"]  # by reading
    assert len({*(stay[1:] for stay in stays)}) == len(stays)
    files = [file for file, _ in groupby(stay.module for stay in stays)]
    assert len(returns(stays)) == len(files) - len({*files})


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
