"""The words of a command line: flags, your own folders, and KEY=VALUE in Hydra's grammar."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from dira_scale.base.errors import UserError, nearest

FLAGS = ("--help", "-h", "--cfg", "--config-dir")


@dataclass
class Arguments:
    """``config_dirs``: the folders of ``--config-dir``. ``words``: KEY=VALUE, ``+KEY=VALUE`` or ``~KEY``."""

    words: list[str] = field(default_factory=list)
    config_dirs: list[Path] = field(default_factory=list)
    help: bool = False
    show: bool = False

    @classmethod
    def parse(cls, argv: Iterable[str]) -> "Arguments":
        """Raises UserError for an unknown flag, a folder that does not exist, or a word that is not KEY=VALUE."""
        arguments = cls()
        words = iter(argv)
        for word in words:
            if word == "--config-dir":
                folder = next(words, "")
                if not Path(folder).is_dir() or not folder:
                    raise UserError(f"--config-dir {folder}: no such folder; expected a folder of YAML groups")
                arguments.config_dirs.append(Path(folder).resolve())
            elif word in ("--help", "-h"):
                arguments.help = True
            elif word == "--cfg":
                arguments.show = True
            elif word.startswith("-"):
                name, value = word.lstrip("-"), next(words, "")
                typed = f": {name}={value}" if value and "=" not in word and not value.startswith("-") else ""
                raise UserError(f"unknown flag {word}{nearest(word, FLAGS) or '.'} Settings are KEY=VALUE{typed}")
            elif "=" not in word and not word.startswith("~"):
                last = arguments.words[-1] if arguments.words else ""
                start = last.partition("=")[2]
                if start.startswith(("[", "{")) and not start.endswith(("]", "}")):
                    quoted = f"'{last} {word} …'"
                    raise UserError(f"{last}: the shell ends a word at a space; quote it all, with commas: {quoted}")
                following = next(words, "=")
                hint = "; --help lists the keys" if "=" in following else f"; did you mean {word}={following}?"
                raise UserError(f"expected KEY=VALUE, got '{word}'{hint}")
            else:
                key, _, value = word.partition("=")  # a shell leaves a dotted key's ~ alone, and Hydra refuses it
                home = value.startswith("~") and not word.startswith("~")
                arguments.words.append(f"{key}={QuotedString(value, Quote.single).with_quotes()}" if home else word)
        return arguments


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def expand_home(config: DictConfig, paths: Iterable[str]) -> None:
    """Replace ``~`` and ``~user`` at the start of the paths in a resolved configuration, as a shell does."""
    for key in paths:
        value = OmegaConf.select(config, key)
        plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        expanded = _expanded(plain)
        if expanded != plain:
            OmegaConf.update(config, key, expanded, merge=False)


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {_expanded(name): weight for name, weight in value.items()}
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value  # noqa: PTH111  # Path drops a last slash
