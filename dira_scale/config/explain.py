"""Errors of Hydra, OmegaConf and PyYAML in one line: the key or file, what is wrong, what was expected."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from dira_scale.config.keys import keys, typed
from dira_scale.config.overrides import Arguments, key_of
from dira_scale.config.schema import MAPPING, is_mapping, kind
from dira_scale.errors import UserError, nearest

FEW = 8  # list the known keys in an error if there are at most this many
ALIKE = 4  # name at most this many keys of the same ending


def explain(error: Exception, schema: type, arguments: Arguments) -> str:
    """One line for ``error``, raised while composing a configuration of ``schema`` from ``arguments``."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException | UserError) else error
    match cause:
        case MissingConfigException(missing_cfg_file=str(file)) if "/" in file:
            if message := _own_file(file, arguments.words):
                return message
            group, _, name = file.rpartition("/")
            options = cause.options or []
            known = f" There are: {', '.join(options)}" if options else ""
            return f"no {group} named '{name}'{nearest(name, options) or '.'}{known}"
        case OverrideParseException(override=word):
            return f"{word}: not valid in Hydra's grammar ({_line(cause.message)}); {_quoted(word)}"
        case HydraException() if word := next((w for w in arguments.words if f"argument '{w}'" in str(cause)), ""):
            return f"{word}: a comma separates the values of a sweep in Hydra's grammar; {_quoted(word)}"
        case (
            ConfigKeyError(parent_node=DictConfig() as node, full_key=str(key))
            | ConfigAttributeError(parent_node=DictConfig() as node, full_key=str(key))
        ):
            return _without_package(key, arguments) or _unknown(key, node, arguments.words)
        case ValidationError(full_key=str(key)) if key:
            expected = kind(schema, key) or (MAPPING if is_mapping(schema, key) else "")
            return f"{key}={_given(cause)}: expected {expected}" if expected else f"{key}: {_line(cause.msg or '')}"
        case OmegaConfBaseException():
            return f"{cause.full_key}: {_line(cause.msg or '')}" if cause.full_key else _line(str(cause))
        case UserError():
            return str(cause)
        case MarkedYAMLError() | ReaderError():
            return f"{_file(cause)}: not valid YAML: {_line(str(cause))}"
        case UnicodeDecodeError():
            return f"{_undecodable(arguments)}: not valid YAML: expected UTF-8"
        case RecursionError():
            return "the configuration is nested too deeply, or an alias in it contains itself"
    return _line(str(cause))


def _quoted(word: str) -> str:
    """What to type for a word whose value is text."""
    key, _, value = word.partition("=")
    return f'type text in quotes of its own: {key}="{QuotedString(value, Quote.single).with_quotes()}"'


def _own_file(missing: str, words: Sequence[str]) -> str:
    """What to type for the GROUP=PATH that is ``missing`` and names a file, as files are chosen by a folder and a name;
    empty if it names none."""
    for word in words:
        group, value = key_of(word), word.partition("=")[2]
        path = Path(value)
        named = missing == f"{group}/{value}" and path.name and ("/" in value or path.suffix == ".yaml")
        if named and (path.is_file() or path.with_suffix(".yaml").is_file()):
            inside = path.parent.name == group
            where = str(path.parent.parent) if inside else "FOLDER"
            first = "" if inside else f"put the file into FOLDER/{group}, then "
            return f"{word}: a file of your own is chosen by name: {first}--config-dir {where} {group}={path.stem}"
    return ""


def _without_package(key: str, arguments: Arguments) -> str:
    """What an own file of a group lacks whose keys turn up below the group's name; empty if it is something else."""
    chosen = {key_of(word): word.partition("=")[2] for word in arguments.words}
    files = [folder / key / f"{chosen.get(key)}.yaml" for folder in arguments.config_dirs]
    file = next((file for file in files if file.is_file()), None)
    return f"{file}: the first line must be '# @package _global_' (docs/how-to/training.md)" if file else ""


def _unknown(key: str, node: DictConfig, words: Sequence[str]) -> str:
    """``key`` is not in ``node``, whose own key is ``key`` without its last part."""
    parent = key.rpartition(".")[0]
    if any(word.startswith(f"{parent}={{") for word in words):  # typed as a mapping
        return f"{parent} has no such entry yet; +{parent}=… adds one"
    key = next((name for word in words if (name := key_of(word)).startswith(f"{key}.")), key)
    known = [name for name in keys(node, f"{parent}." if parent else "") if not name.startswith(("hydra", "_"))]
    if known == [f"{parent}."]:
        return f"unknown key {key}: {parent} has no keys of its own; a mapping is {parent}='{{name: value}}'"
    hint = f"there are: {', '.join(known)}" if 0 < len(known) <= FEW else "--help lists the keys"
    deeper = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    similar = (deeper and parent and _or(deeper[:ALIKE])) or nearest(key, known) or _same_ending(key, deeper, known)
    return f"unknown key {key}{similar} ({hint})"


def _same_ending(key: str, deeper: Sequence[str], known: Sequence[str]) -> str:
    """The keys further ``deeper`` of this name, such as optim.optimizer.lr for lr, then those that begin like it."""
    alike = [name for name in known if "." not in name and name.startswith(key.rstrip("s"))]
    return _or([*deeper[:ALIKE], *alike]) if len(key) > 1 else ""


def _or(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return f"; did you mean {' or '.join(quoted)}?" if names else ""


def _given(error: ValidationError) -> str:
    value = error.value
    return typed(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)


def _line(text: str) -> str:
    """The text as one line, without the details that Hydra and OmegaConf append for developers."""
    for tail in ("\n    full_key:", "\nSee https", "\nConfig search path:"):
        text = text.partition(tail)[0]
    return " ".join(text.split())


def _file(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return str(mark.name if mark else getattr(error, "name", "a file"))


def _undecodable(arguments: Arguments) -> str:
    """The first of the user's files that is not UTF-8; the project's are."""
    for file in sorted(path for folder in arguments.config_dirs for path in folder.rglob("*.yaml")):
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return str(file)
    return "a file"
