"""The words of a command line: flags, your own folders, KEY=VALUE. Paths are quoted before Hydra parses them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from dira_scale.config.keys import leaves
from dira_scale.config.schema import Places
from dira_scale.errors import UserError, nearest

OPENING = "\ue000"  # private-use character: replaces ${ in a path while other values are interpolated
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
                arguments.config_dirs.append(_existing(next(words, "")))
            elif word in ("--help", "-h"):
                arguments.help = True
            elif word == "--cfg":
                arguments.show = True
            elif word.startswith("-"):
                name, value = word.lstrip("-"), next(words, "")
                typed = f": {name}={value}" if value and "=" not in word and not value.startswith("-") else ""
                raise UserError(f"unknown flag {word}{nearest(word, FLAGS) or '.'} Settings are KEY=VALUE{typed}")
            elif "=" not in word and not word.startswith("~"):
                raise UserError(f"expected KEY=VALUE, got '{word}'; --help lists the keys")
            else:
                arguments.words.append(word)
        return arguments


def _existing(name: str) -> Path:
    if not Path(name).is_dir() or not name:
        raise UserError(f"--config-dir {name}: no such folder; expected a folder of YAML groups")
    return Path(name).resolve()


def key_of(word: str) -> str:
    """The dotted key of an override."""
    return word.partition("=")[0].lstrip("+~")


def quote(words: Iterable[str], places: Mapping[str, Places]) -> list[str]:
    """Overrides with literal text in quotes, for Hydra's grammar; :func:`restore` undoes what quotes cannot do.

    Literal are paths, always, and any other key's text that the grammar does not accept. ``null`` itself stays null. A
    key of several places keeps a list or mapping in Hydra's grammar.
    """
    return [_quoted(word, places) for word in words]


def _quoted(word: str, places: Mapping[str, Places]) -> str:
    key, (head, sign, value) = key_of(word), word.partition("=")
    if not sign or value == "null" or not _is_literal(word, value, places.get(key)):
        return word
    text = _home(value) if key in places else value
    return f"{head}={QuotedString(text.replace('${', OPENING), Quote.single).with_quotes()}"


def _is_literal(word: str, value: str, kind: Places | None) -> bool:
    if kind is None:
        return _is_text(word, value)
    if kind is not Places.SEVERAL or not value.startswith(("[", "{")):
        return kind in (Places.ONE, Places.SEVERAL)
    try:
        return not isinstance(OverridesParser.create().parse_override(word).value(), list | dict)
    except HydraException as error:
        if value[-1] == {"[": "]", "{": "}"}[value[0]] and not Path(value).exists():
            raise UserError(
                f"{word}: expected a list or a mapping in Hydra's grammar; quote each path in it: "
                f"{key_of(word)}=\"['first path','second path']\""
            ) from error
        return True


def _is_text(word: str, value: str) -> bool:
    """Whether Hydra's grammar does not accept a value that is meant as text: ``a (b``, ``a, b``.

    Lists, mappings, quoted text and interpolations are meant for the grammar, and so are the choices of a group.
    """
    if "." not in key_of(word) or value.startswith(("[", "{", "'", '"')) or "${" in value:
        return False
    try:
        return OverridesParser.create().parse_override(word).is_sweep_override()
    except HydraException:
        return True


def keys_only(words: Iterable[str]) -> list[str]:
    """``words`` for a look at the keys alone: values that Hydra's grammar does not accept become null."""
    kept = []
    for word in words:
        try:
            accepted = not OverridesParser.create().parse_override(word).is_sweep_override()
        except HydraException:
            accepted = False
        kept.append(word if accepted else f"{word.partition('=')[0]}=null")
    return kept


def restore(config: DictConfig) -> None:
    """Put back each ``${`` of a quoted path, escaped, so that it is never read as an interpolation."""
    for key, value in leaves(config):
        if isinstance(value, str) and OPENING in value:
            typed = re.sub(rf"(\\*){OPENING}", lambda match: match[1] * 2 + r"\${", value)
            OmegaConf.update(config, key, typed)


def expand_home(config: DictConfig, places: Iterable[str]) -> None:
    """Replace ``~`` and ``~user`` at the start of the places in a resolved configuration, as a shell does."""
    for key in places:
        value = OmegaConf.select(config, key)
        plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        expanded = _expanded(plain)
        if expanded != plain:
            OmegaConf.update(config, key, _escaped(expanded), merge=False)


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {_expanded(name): weight for name, weight in value.items()}
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return _home(value) if isinstance(value, str) else value


def _escaped(value: Any) -> Any:
    """``value`` so that OmegaConf reads it as it is: ``${`` in it is not an interpolation. Keys never are."""
    if isinstance(value, dict | list):
        return value if isinstance(value, dict) else [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value) if isinstance(value, str) else value


def _home(path: str) -> str:
    if not path.startswith("~"):
        return path
    user, slash, rest = path.partition("/")
    try:
        return f"{Path(user).expanduser()}{slash}{rest}"
    except RuntimeError:  # no such user
        return path
