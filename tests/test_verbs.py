"""The table of commands says what is so: beside the modules, the configurations, and the pages that list commands."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
from omegaconf import OmegaConf

from dira_scale import api
from dira_scale.config.compose import defaults
from dira_scale.verbs import VERBS, Verb

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dira_scale"
OTHER_FILES = {"__init__", "__main__", "api", "errors", "verbs"}
IN_SWEEPS = {name for name, verb in VERBS.items() if verb.in_sweeps}


def page(path: str) -> str:
    return (ROOT / path).read_text()


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_every_file_beside_the_rooms_is_a_command() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == VERBS.keys() | OTHER_FILES


def test_reading_the_table_imports_nothing() -> None:
    tree = ast.parse((PACKAGE / "verbs.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(node) for node in imports] == ["from dataclasses import dataclass"]


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
def test_a_row_names_what_there_is(verb: Verb) -> None:
    assert callable(import_module(f"dira_scale.{verb.name}").main)
    if verb.check:
        arguments = 1 + verb.trains + verb.reads_run
        assert len(inspect.signature(resolve_name(verb.check)).parameters) == arguments
    assert list(inspect.signature(resolve_name(verb.results)).parameters) == ["output"]
    if verb.compare:
        assert list(inspect.signature(resolve_name(verb.compare)).parameters) == ["runs"]
    assert bool(verb.output) or verb.flags or not verb.in_sweeps  # a sweep sets it
    if verb.flags:
        return
    keys = [*([verb.output] if verb.output else []), *(["run"] if verb.reads_run else []), *verb.execution]
    config = defaults(verb.name, ["experiment=small"] if verb.name == "pretrain" else [])
    for key in [*keys, *(["slice"] if verb.slices else [])]:
        parent, _, name = key.rpartition(".")
        assert name in [*OmegaConf.select(config, parent)], key


def test_the_functions_for_scripts_are_commands() -> None:
    functions = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))} - {"autocast"}
    assert functions <= VERBS.keys()
    assert functions == set(re.findall(r"^\| `(\w+)\(", page("docs/reference/api.md"), re.MULTILINE))


def test_the_pages_list_the_commands() -> None:
    (tree,) = re.findall(r"\n\n((?:    .*\n)+)", page("README.md"))[:1]
    assert set(re.findall(r"^[ └├│─]+(\w+)  ", tree, re.MULTILINE)) == VERBS.keys()
    (row,) = re.findall(r"^\| command \|.*: (.*) \|$", page("docs/reference/glossary.md"), re.MULTILINE)
    assert quoted(row) == VERBS.keys()
    (files,) = re.findall(r"dira_scale/\n((?:.*\.py)+)\n", page("docs/explanation/architecture.md"))
    assert set(re.findall(r"(\w+)\.py", files)) == VERBS.keys()
    (row,) = re.findall(r"^\| `command` \|(.*)\|$", page("docs/how-to/slurm.md"), re.MULTILINE)
    assert quoted(row) == IN_SWEEPS
