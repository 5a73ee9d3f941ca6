"""The folders of configuration files, and a root file's metadata."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml


def folder(name: str) -> Path:
    """The folder ``configs``, ``shards`` …: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parents[2]
    checkout = package.parent
    return checkout / name if (checkout / "pyproject.toml").is_file() else package / "_data" / name


def roots(command: str, config_dirs: list[Path]) -> list[Path]:
    """All folders of a command's configuration groups: the project's, with those of this command alone, then those of
    ``--config-dir``."""
    own = _own(command)
    return [folder("configs"), *[own] * own.is_dir(), folder("shards"), folder("slurm"), *config_dirs]


def small_options(command: str) -> dict[str, dict[str, Any]]:
    """The options of a group that are nodes of one file, ``configs/COMMAND/GROUP.yaml``, by group and name."""
    return {file.stem: yaml.safe_load(file.read_text()) for file in _own(command).glob("*.yaml")}


def _own(command: str) -> Path:
    """The folder of the groups of this command alone, of a plan those of what is planned."""
    return folder("configs") / ("pretrain" if command == "plan" else command.removeprefix("plan_"))


@dataclass(frozen=True)
class Root:
    """Metadata in ``configs/COMMAND.yaml``.

    Attributes:
        schema: dotted path of the dataclass that the configuration is checked against (``_schema_``).
        example: what to type after the command, for ``--help`` (``_example_``); empty if no command has this name.
        first: the keys and groups that matter first, for ``--help`` (``_first_``).
    """

    schema: str
    example: str
    first: tuple[str, ...]

    KEYS = ("_schema_", "_example_", "_first_")

    @classmethod
    @lru_cache
    def read(cls, command: str) -> "Root":
        content: dict[str, Any] = yaml.safe_load((folder("configs") / f"{command.replace(' ', '_')}.yaml").read_text())
        return cls(content["_schema_"], content.get("_example_", ""), tuple(content.get("_first_", ())))
