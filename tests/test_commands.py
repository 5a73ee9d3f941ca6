"""Rows of commands say what is so: of their folders, the configurations, and the pages that list commands."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest
from needs import need_extra
from omegaconf import OmegaConf

from dira_scale import api
from dira_scale.base.config.compose import defaults
from dira_scale.command import Command
from dira_scale.commands import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dira_scale"
IN_SWEEPS = {name for name, row in COMMANDS.items() if row.in_sweeps}


def page(path: str) -> str:
    return (ROOT / path).read_text()


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_every_folder_that_can_be_called_is_a_command() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__main__.py")} == COMMANDS.keys()


def test_reading_the_rows_imports_neither_torch_nor_hydra() -> None:
    script = "import sys; from dira_scale.commands import COMMANDS; [*COMMANDS.values()]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert {"torch", "hydra", "omegaconf", "numpy"}.isdisjoint(done.stdout.split())


def test_a_command_that_computes_imports_timm_without_wandb() -> None:
    need_extra("trackers")
    call = "Command('any', '', 'builtins:dict', gpu=True).carry_out({})"
    script = (
        f"import sys; from dira_scale.command import Command; {call}; print({{'timm', 'wandb'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "{'timm'}\n"


def test_what_is_called_holds_nothing_that_a_worker_would_look_for() -> None:
    for name in COMMANDS:
        text = (PACKAGE / name / "__main__.py").read_text()
        assert text.splitlines() == [
            f"from dira_scale.{name} import main", "", 'if __name__ == "__main__":', "    raise SystemExit(main())"
        ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)
def test_a_row_names_what_there_is(command: Command) -> None:
    module = import_module(f"dira_scale.{command.name}")
    assert callable(module.main)
    named = [
        command.function,
        *command.look,
        command.blueprint,
        command.page,
        command.watch_page,
        *command.subcommands.values(),
    ]
    assert all(callable(resolve_name(path)) for path in named if path)
    assert not (command.check and command.blueprint)
    if command.check:
        arguments = 1 + command.reads_run
        assert len(inspect.signature(resolve_name(command.check)).parameters) == arguments
    assert list(inspect.signature(resolve_name(command.results)).parameters) == ["output"]
    if command.compare:
        assert list(inspect.signature(resolve_name(command.compare)).parameters) == ["runs"]
    assert bool(command.output) or not command.in_sweeps  # a sweep sets it
    assert all(COMMANDS[name].output in [*defaults(name)] for name in command.also_in_sweeps)
    if command.name == "bench":  # has flags instead of keys
        return
    keys = [*([command.output] if command.output else []), *(["run"] if command.reads_run else []), *command.execution]
    config = defaults(command.name, ["experiment=small"] if command.name == "pretrain" else [])
    for key in [*keys, *(["slice"] if command.slices else [])]:
        parent, _, name = key.rpartition(".")
        assert name in [*OmegaConf.select(config, parent)], key


def test_the_functions_for_scripts_are_commands() -> None:
    functions = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))} - {"autocast", "encoder"}
    assert functions - {"views"} <= COMMANDS.keys()
    assert functions == set(re.findall(r"^\| `(\w+)\(", page("docs/reference/api.md"), re.MULTILINE))


def test_the_pages_list_the_commands() -> None:
    (tree,) = re.findall(r"\n\n((?:    .*\n)+)", page("README.md"))[:1]
    assert COMMANDS.keys() <= set(re.findall(r"\w+", tree))
    (row,) = re.findall(r"^\| command \|.*: (.*) \|$", page("docs/reference/glossary.md"), re.MULTILINE)
    assert quoted(row) == COMMANDS.keys()
    (tree,) = re.findall(r"dira_scale/\n((?:.*\n)+?)\n", page("docs/explanation/architecture.md"))
    assert COMMANDS.keys() <= set(re.findall(r"(\w+)/ ", tree))
    (row,) = re.findall(r"^\| `command` \|(.*)\|$", page("docs/reference/sweeps.md"), re.MULTILINE)
    assert quoted(row) == IN_SWEEPS | {"merge", "balance"}
