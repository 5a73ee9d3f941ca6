"""Configuration: Hydra's compose API and override grammar over ``configs/``, checked against dataclasses.

A command's root file is ``configs/COMMAND.yaml``. Its ``_schema_`` names the dataclass that it is checked against,
which is beside the class that it configures (:mod:`dira_scale.base.config.schema`). Defaults and their reasons are in
the YAML files only. Hydra's own entry point is not used: it would change the working directory and configure logging.
"""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    KeyValidationError,
    OmegaConfBaseException,
    ValidationError,
)
from omegaconf.resolvers import oc
from yaml import MarkedYAMLError, YAMLError
from yaml.reader import ReaderError

from dira_scale.base.arguments import MAPPING
from dira_scale.base.config.border import at
from dira_scale.base.config.files import Root, folder, roots
from dira_scale.base.config.help import describe
from dira_scale.base.config.keys import as_words, keys, leaves, typed
from dira_scale.base.config.overrides import Arguments, expand_home, key_of
from dira_scale.base.config.parts import PARTS, store_presets, store_small_options
from dira_scale.base.config.registry import imported
from dira_scale.base.config.schema import PathKind, Schema, kind_words, path_arguments, path_keys, specialised
from dira_scale.base.config.trust import trust_typed
from dira_scale.base.errors import UserError, nearest
from dira_scale.commands import COMMANDS

# Typed mappings that replace another: Hydra would add to it.
REPLACED = ("task.classes={", "recipe.volume.crop={", "recipe.splits={")
FEW = 8  # list the known keys in an error if there are at most this many
MANY, NEAREST = 12, 5  # of more options than these, name these
ALIKE = 4  # name at most this many keys of the same ending
# What the libraries raise for a user's mistake; ValueError: experiment=null and the like.
MISTAKES = (HydraException, OmegaConfBaseException, YAMLError, RecursionError, ValueError)


def compose(command: str, argv: list[str]) -> DictConfig:
    """The configuration of ``command`` with the overrides in ``argv``, resolved and checked.

    ``--config-dir DIR`` adds a folder of your own groups and experiments. ``--help`` and ``--cfg`` print and exit.

    Raises:
        UserError: an unknown key (with the nearest one), option or flag, or a value of the wrong type or out of bounds.
    """
    root, arguments = Root.read(command), Arguments.parse(argv)
    schema: Any = get_class(root.schema)
    try:
        composed = _hydra(command, arguments.words, arguments.config_dirs)
        for group in ("experiment", "preset", "cluster"):  # Hydra takes the last, and says nothing of the first
            same = dict.fromkeys(word for word in arguments.words if key_of(word) == group)
            if len(same) > 1:
                raise UserError(f"{' and '.join(same)}: only the last would count; name one")
        trust_typed(composed)
        schema.adopt(composed, {*map(key_of, arguments.words)})
        schema = specialised(schema, composed)
        config = _typed(composed, schema)
        paths = _path_keys(schema, lambda: composed)
        choices = {g: o for g, o in composed.hydra.runtime.choices.items() if not g.startswith("hydra/")}
        if arguments.help:
            print(describe(command, config, schema, paths, root, choices, arguments.config_dirs))
            raise SystemExit(0)
        if arguments.show:
            print(OmegaConf.to_yaml(config, resolve=False))
            raise SystemExit(0)
        if missing := sorted(OmegaConf.missing_keys(config)):
            chosen = [word for word in arguments.words if key_of(word) in choices]  # decide what keys there are
            help = f"python -m dira_scale.{command.replace('_', ' ')} {shlex.join([*chosen, '--help'])}"
            raise schema.incomplete(config, missing, help)
        with _closed_environment(command):
            OmegaConf.resolve(config)
        expand_home(config, paths)
    except MISTAKES as error:
        raise UserError(explain(error, schema, arguments.words, command)) from error
    check(config)
    return config


def configured(command: str, values: Mapping[str, Any]) -> DictConfig:
    """Return the configuration of ``command`` as :func:`compose` does, from Python values by dotted keys, or nested.

    Text for a group of files, such as ``experiment``, chooses one; a key that there is not yet begins with ``+``.

    Raises UserError as :func:`compose` does.
    """
    return compose(command, as_words(values))


def defaults(command: str, words: Sequence[str] = ()) -> DictConfig:
    """A command's defaults from ``configs/``, with ``words`` such as ``experiment=small``.

    Neither resolved nor checked: imports no schema and thus no torch.
    """
    return _plain(_hydra(command, words, []))


def path_keys_of(command: str, choices: Sequence[str], config_dirs: Sequence[Path]) -> dict[str, PathKind]:
    """All keys of ``command`` that hold paths under these choices of groups, and how.

    Raises UserError if there is no such choice.
    """
    schema = get_class(Root.read(command).schema)
    try:
        return _path_keys(schema, lambda: _hydra(command, choices, config_dirs))
    except MISTAKES as error:
        raise UserError(explain(error, schema, choices, command)) from error


def check(config: DictConfig, prefix: str = "") -> None:
    """Check every schema in a resolved configuration by creating its object, inner ones first.

    Raises:
        UserError: names the key whose value is out of bounds.
    """
    for name, child in config.items():
        if isinstance(child, DictConfig):
            check(child, f"{prefix}{name!s}.")
    schema = OmegaConf.get_type(config)
    if schema is not None and issubclass(schema, Schema):
        try:
            with at(""):
                OmegaConf.to_object(config)
        except UserError as error:  # of the schema's own
            raise UserError(f"{prefix}{error}") from error


def _path_keys(schema: type, composed: Callable[[], DictConfig]) -> dict[str, PathKind]:
    """The keys that hold paths; within a constructed node, as the class that it names annotates them."""
    paths = path_keys(schema)
    for node in [key for key, how in paths.items() if how is PathKind.CONSTRUCTED]:
        target = OmegaConf.select(composed(), f"{node}._target_")
        try:
            chosen = imported(f"{node}._target_", target)
            paths |= {f"{node}.{name}": how for name, how in path_arguments(chosen).items()}
        except Exception:  # a user's class: constructing it will report what is wrong
            continue
    return paths


def _hydra(command: str, words: Sequence[str], config_dirs: Sequence[Path]) -> DictConfig:
    command = command.replace(" ", "_")  # of a subcommand
    folders = roots(command, list(config_dirs))
    store_small_options(command)
    if config_dirs or any(key_of(word) == "preset" for word in words):  # files of your own may choose one
        store_presets(folders)
    paths = ",".join(f"file://{path}" for path in folders[1:])
    with initialize_config_dir(version_base=None, config_dir=str(folder("configs"))):
        emptied = [f"{key_of(word)}=null" for word in words if word.startswith(REPLACED)]
        overrides = [f"hydra.searchpath=[{paths}]", *emptied, *words]
        return hydra_compose(config_name=command, overrides=overrides, return_hydra_config=True)


def _plain(composed: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("hydra", PARTS, *Root.KEYS)])


def _typed(composed: DictConfig, schema: type) -> DictConfig:
    try:
        config = OmegaConf.merge(_structured(schema), _plain(composed))
    except OmegaConfBaseException as error:
        if not error.full_key:  # OmegaConf does not say where a list is that must be a mapping
            for key, value in leaves(composed):
                if isinstance(value, list) and MAPPING in (expected := kind_words(schema, key)):
                    raise UserError(f"{key}={typed(value)}: expected {expected}") from error
        raise
    assert isinstance(config, DictConfig)
    return config


_structured = lru_cache(OmegaConf.structured)  # merge() copies it


@contextmanager
def _closed_environment(command: str) -> Iterator[None]:
    """No access to environment variables while configuring shards: recipes may be untrusted, and are published with
    the dataset."""

    def refuse(name: str, default: Any = None) -> None:
        raise UserError(f"${{oc.env:{name}}}: a recipe may not read the environment; type the value as KEY=VALUE")

    OmegaConf.register_new_resolver("oc.env", refuse if command.startswith("shard") else oc.env, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def explain(error: Exception, schema: type, words: Sequence[str], command: str) -> str:
    """One line for ``error``, raised while composing a configuration of ``command``, of ``schema``, from ``words``."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException | UserError) else error
    match cause:
        case MissingConfigException(missing_cfg_file=str(file)) if "/" in file:
            group, _, name = file.partition("/")
            options = cause.options or []
            own = f"; a file of your own is chosen by --config-dir FOLDER and {group}=NAME" if "/" in name else ""
            hint = f"{nearest(name, options)}{own}"
            end = "" if hint.endswith("?") else "."
            if len(options) > MANY:
                near = get_close_matches(name, options, n=NEAREST, cutoff=0)
                return f"no {group} named '{name}'{hint}{end} The nearest are: {', '.join(near)}; --help lists all"
            return f"no {group} named '{name}'{hint}{end} There are: {', '.join(options)}"
        case OverrideParseException(override=word):
            return f"{word}: not valid in Hydra's grammar ({_line(cause.message)}); {_quoted(word)}"
        case HydraException() if hidden := re.match(r"Could not override '(\w+)'", str(cause)):
            if kind_words(schema, hidden[1]):
                return f"--config-dir: its folder '{hidden[1]}' would hold choices of {hidden[1]}=: name another"
            return _unknown(hidden[1], _structured(schema), command)
        case HydraException() if word := next((word for word in words if f"argument '{word}'" in str(cause)), ""):
            key, _, value = word.partition("=")
            remedy = f"type a list in brackets: '{key}=[{value}]'; {_quoted(word)}"
            remedy = _quoted(word) if kind_words(schema, key).startswith("a path") else remedy
            remedy = f"type {value.replace(',', '.')}" if re.fullmatch(r"-?0,\d+", value) else remedy
            return f"{word}: a comma separates the values of a sweep in Hydra's grammar; {remedy}"
        case ConfigKeyError(full_key=str(key)) if any(word.startswith(f"{key}=") for word in words):
            return f"the first line of a file for {key}= must be '# @package _global_' (docs/how-to/training.md)"
        case (
            ConfigKeyError(parent_node=DictConfig() as node, full_key=str(key))
            | ConfigAttributeError(parent_node=DictConfig() as node, full_key=str(key))
        ):
            return _unknown(key, node, command)
        case KeyValidationError(full_key=str(key)):
            return f"{key.rpartition('.')[0]}: '{key.rpartition('.')[2]}' is no name: expected {MAPPING}"
        case ValidationError(full_key=str(key)) if key:
            if not (expected := kind_words(schema, key)):
                return f"{key}: {_line(cause.msg or '')}"
            wrong = OmegaConf.to_container(cause.value) if OmegaConf.is_config(cause.value) else cause.value
            return f"{key}={typed(wrong)}: expected {expected}"
        case OmegaConfBaseException() if cause.full_key:
            return f"{cause.full_key}: {_line(cause.msg or '')}"
        case MarkedYAMLError() | ReaderError():
            mark: Any = getattr(cause, "problem_mark", None) or getattr(cause, "context_mark", None) or cause
            return f"{mark.name}: not valid YAML: {_line(str(cause))}"
        case UnicodeDecodeError():
            return f"a file of --config-dir is not UTF-8: {cause}"
    return _line(str(cause))


def _unknown(key: str, node: DictConfig, command: str) -> str:
    """The line of a ``key`` that is not in ``node``: keys that end alike, other commands that have it, or the nearest
    one in ``node``, whose own key is ``key`` without its last part."""
    parent, _, name = key.rpartition(".")
    below = keys(node, f"{parent}." if parent else "")
    known = [other for other in below if not other.startswith(("hydra", "_")) and other != f"{parent}."]
    alike = {name, f"{name}s", name.removesuffix("s")}
    if deeper := [f"'{other}'" for other in known if other.rpartition(".")[2] in alike][:ALIKE]:
        return f"unknown key {key}; did you mean {' or '.join(deeper)}? (--help lists the keys)"
    files = {other: folder("configs") / f"{other}.yaml" for other in COMMANDS if other != command}  # bench has none
    line = re.compile(rf"^(  - )?{re.escape(key)}:", re.MULTILINE)
    commands = [other for other, file in files.items() if file.is_file() and line.search(file.read_text())]
    if 0 < len(commands) <= FEW and not parent:
        return f"unknown key {key}: {command} has none, but {' and '.join(commands)} (--help lists the keys)"
    hint = f"there are: {', '.join(known)}" if len(known) <= FEW else "--help lists the keys"
    if not known:
        hint = f"{parent} has none; +{key}=VALUE adds one to a mapping"
    return f"unknown key {key}{nearest(key, known)} ({hint})"


def _quoted(word: str) -> str:
    key, _, value = word.partition("=")
    return f'type text in quotes of its own: {key}="{QuotedString(value, Quote.single).with_quotes()}"'


def _line(text: str) -> str:
    """The text as one line, without the details that Hydra and OmegaConf append for developers."""
    for tail in ("\n    full_key:", "\nSee https", "\nConfig search path:"):
        text = text.partition(tail)[0]
    return " ".join(text.split())
