"""Errors of Hydra, OmegaConf and PyYAML in one line: the key or file, what is wrong, what was expected."""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError
from yaml import MarkedYAMLError
from yaml.reader import ReaderError

from dira_scale.config.keys import keys, typed
from dira_scale.config.schema import MAPPING, is_mapping, kind
from dira_scale.errors import UserError, nearest

FEW = 8  # list the known keys in an error if there are at most this many
ALIKE = 4  # name at most this many keys of the same ending


def explain(error: Exception, schema: type, words: Sequence[str]) -> str:
    """One line for ``error``, raised while composing a configuration of ``schema`` from ``words``."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException | UserError) else error
    match cause:
        case MissingConfigException(missing_cfg_file=str(file)) if "/" in file:
            group, _, name = file.partition("/")
            options = cause.options or []
            own = f"; a file of your own is chosen by --config-dir FOLDER and {group}=NAME" if "/" in name else ""
            hint = f"{nearest(name, options)}{own}"
            end = "" if hint.endswith("?") else "."
            return f"no {group} named '{name}'{hint}{end} There are: {', '.join(options)}"
        case OverrideParseException(override=word):
            return f"{word}: not valid in Hydra's grammar ({_line(cause.message)}); {_quoted(word)}"
        case HydraException() if word := next((word for word in words if f"argument '{word}'" in str(cause)), ""):
            return f"{word}: a comma separates the values of a sweep in Hydra's grammar; {_quoted(word)}"
        case ConfigKeyError(full_key=str(key)) if any(word.startswith(f"{key}=") for word in words):
            return f"the first line of a file for {key}= must be '# @package _global_' (docs/how-to/training.md)"
        case (
            ConfigKeyError(parent_node=DictConfig() as node, full_key=str(key))
            | ConfigAttributeError(parent_node=DictConfig() as node, full_key=str(key))
        ):
            return _unknown(key, node)
        case ValidationError(full_key=str(key)) if key:
            expected = kind(schema, key) or (MAPPING if is_mapping(schema, key) else "")
            return f"{key}={_given(cause)}: expected {expected}" if expected else f"{key}: {_line(cause.msg or '')}"
        case OmegaConfBaseException() if cause.full_key:
            return f"{cause.full_key}: {_line(cause.msg or '')}"
        case MarkedYAMLError() | ReaderError():
            mark: Any = getattr(cause, "problem_mark", None) or getattr(cause, "context_mark", None) or cause
            return f"{mark.name}: not valid YAML: {_line(str(cause))}"
        case UnicodeDecodeError():
            return f"a file of --config-dir is not UTF-8: {cause}"
    return _line(str(cause))


def _quoted(word: str) -> str:
    """What to type for a word whose value is text."""
    key, _, value = word.partition("=")
    return f'type text in quotes of its own: {key}="{QuotedString(value, Quote.single).with_quotes()}"'


def _unknown(key: str, node: DictConfig) -> str:
    """``key`` is not in ``node``, whose own key is ``key`` without its last part."""
    parent, _, name = key.rpartition(".")
    below = keys(node, f"{parent}." if parent else "")
    known = [each for each in below if not each.startswith(("hydra", "_")) and each != f"{parent}."]
    deeper = [f"'{each}'" for each in known if each.rpartition(".")[2] == name][:ALIKE]
    similar = f"; did you mean {' or '.join(deeper)}?" if deeper else nearest(key, known)
    hint = f"there are: {', '.join(known)}" if len(known) <= FEW else "--help lists the keys"
    if not known:
        hint = f"{parent} has none; +{key}=VALUE adds one to a mapping"
    return f"unknown key {key}{similar} ({hint})"


def _given(error: ValidationError) -> str:
    value = error.value
    return typed(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)


def _line(text: str) -> str:
    """The text as one line, without the details that Hydra and OmegaConf append for developers."""
    for tail in ("\n    full_key:", "\nSee https", "\nConfig search path:"):
        text = text.partition(tail)[0]
    return " ".join(text.split())
