"""Configuration: Hydra's compose API and override grammar over ``configs/``, checked against dataclasses.

A verb's root file is ``configs/VERB.yaml``. Its ``_schema_`` names the dataclass that it is checked against, which lies
beside what it configures. Defaults and their reasons stand in the YAML files only. Hydra's own entry point is not used:
it would change the folder and configure logging.
"""

import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import YAMLError

from dira_scale.config import logs
from dira_scale.config.yaml_files import check_folder
from dira_scale.errors import UserError, nearest, say

# Numbers that make no sense below these.
LEAST: dict[str, int] = {
    "steps": 1, "log_every": 1, "checkpoint.every": 1, "checkpoint.keep": 1, "validate.every": 1, "validate.batch": 1,
    "validate.batches": 1, "validate.pictures": 1, "validate.restored": 2, "data.workers": 1, "data.prefetch": 1,
    "watchdog": 1, "data.batch": 1, "health.every": 1, "parallel.accumulate": 1, "parallel.threads": 1,
    "parallel.timeout": 1, "seed": 0,
    "draws": 1, "random_encoders": 1, "k": 1, "batch": 1, "plan.nodes": 1, "plan.gpus": 1, "plan.images": 1,
}  # fmt: skip


def folder(name: str) -> Path:
    """Where ``configs``, ``shards`` … lie: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parents[1]
    checkout = package.parent
    return checkout / name if (checkout / "pyproject.toml").is_file() else package / "_data" / name


def compose(verb: str, argv: list[str]) -> DictConfig:
    """The configuration of ``verb`` with the overrides in ``argv``, resolved and checked.

    ``--config-dir DIR`` adds a folder of one's own groups and experiments. ``--help`` and ``--cfg`` print and exit.

    Raises:
        UserError: an unknown key (with the nearest one), option or flag, or a value of the wrong type.
    """
    flags = {"--help", "-h", "--cfg"} & set(argv)
    overrides, own = _arguments([a for a in argv if a not in flags])
    search = [f"file://{folder('shards')}", f"file://{folder('slurm')}", *(f"file://{d}" for d in own)]
    try:
        with initialize_config_dir(version_base=None, config_dir=str(folder("configs"))):
            paths = f"hydra.searchpath=[{','.join(search)}]"
            config = hydra_compose(config_name=verb, overrides=[paths, *overrides], return_hydra_config=True)
        choices = {g: o for g, o in config.hydra.runtime.choices.items() if not g.startswith("hydra/")}
        schema = config.get("_schema_")
        config = OmegaConf.masked_copy(config, [key for key in config if key not in ("hydra", "_schema_")])
        if schema is not None:
            config = OmegaConf.merge(OmegaConf.structured(get_class(schema)), config)
            assert isinstance(config, DictConfig)
        if "--help" in flags or "-h" in flags:
            from dira_scale.config.help import describe

            print(describe(verb, config, choices, own))
            raise SystemExit(0)
        if "--cfg" in flags:
            print(OmegaConf.to_yaml(config, resolve=False))
            raise SystemExit(0)
        _complete(config)
        with _closed_environment(verb):
            OmegaConf.resolve(config)
        _refuse_small(config)
        if verb in ("pretrain", "plan"):
            _refuse_stages(config)
    except (HydraException, OmegaConfBaseException, YAMLError, RecursionError, ValueError) as error:
        raise UserError(_explain(verb, error, overrides)) from error  # ValueError: experiment=null and the like
    return config


@contextmanager
def _closed_environment(verb: str) -> Iterator[None]:
    """While shards are configured: recipes may be others', and what they say is published with the dataset."""

    def refuse(name: str, default: Any = None) -> None:
        raise UserError(f"${{oc.env:{name}}}: a recipe may not read the environment; type the value as KEY=VALUE")

    OmegaConf.register_new_resolver("oc.env", refuse if verb.startswith("shard") else oc.env, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def run_verb(verb: str, function: Callable[[DictConfig], int | None], argv: list[str] | None) -> int:
    """Compose, call, and turn a ``UserError`` into one line and exit code 2."""
    logs.start(verb.replace("_", " "))
    try:
        return function(compose(verb, sys.argv[1:] if argv is None else argv)) or 0
    except UserError as error:
        say(verb.replace("_", " "), error)
        return 2


def _arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    overrides: list[str] = []
    own: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--config-dir":
            path = next(words, None)
            if path is None or not Path(path).is_dir():
                raise UserError(f"--config-dir {path}: no such folder; it takes a folder of YAML groups")
            check_folder(Path(path))
            own.append(str(Path(path).resolve()))
        elif word.startswith("-"):
            known = nearest(word, ["--help", "--cfg", "--config-dir"])
            raise UserError(f"unknown flag {word}{known or '.'} Settings are KEY=VALUE")
        elif "=" not in word and not word.startswith("~"):
            raise UserError(f"'{word}' is no KEY=VALUE; --help lists the keys")
        else:
            overrides.append(word)
    return overrides, own


def _complete(config: DictConfig) -> None:
    """Refuse keys that must be given and were not."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]} must be given: {missing[0]}=…; --help says what it is")


def _refuse_small(config: DictConfig) -> None:
    for key, least in LEAST.items():
        value = OmegaConf.select(config, key)
        if isinstance(value, int | float) and value < least:
            raise UserError(f"{key}={value}: it must be at least {least}")


def _refuse_stages(config: DictConfig) -> None:
    if not 0 < config.epoch_factor < math.inf:  # nor NaN
        raise UserError(f"epoch_factor={config.epoch_factor}: it must be a number above 0")
    for name, stage in config.stages.items():
        if not 0 <= stage.epochs < math.inf:
            raise UserError(f"stages.{name}.epochs={stage.epochs}: a number of at least 0 (0 leaves the stage out)")
        if stage.patience is not None and stage.patience < 1:
            raise UserError(f"stages.{name}.patience={stage.patience}: it must be at least 1, or null for never")
        if stage.batch is not None and stage.batch < 1:
            raise UserError(f"stages.{name}.batch={stage.batch}: it must be at least 1, or null for data.batch")
        if not stage.terms:
            raise UserError(f"stages.{name}.terms=[]: name loss terms; stages.{name}.epochs=0 leaves the stage out")
    if not any(stage.epochs for stage in config.stages.values()):
        raise UserError("stages: all of them have 0 epochs, nothing would be trained")


def leaves(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values as written: interpolations unresolved, what must be given as ``???``."""

    def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            yield prefix, node

    yield from walk(OmegaConf.to_container(config, resolve=False), "")


def _explain(verb: str, error: Exception, overrides: list[str]) -> str:
    text = " ".join(str(error).split()).removeprefix("UserError raised while resolving interpolation: ")
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        known = [key for key, _ in leaves(_defaults(verb, overrides, unknown.group(1))) if key != "_schema_"]
        every = sorted({".".join(k.split(".")[: i + 1]) for k in known for i in range(k.count(".") + 1)})
        if unknown.group(1) in every:
            return f"{unknown.group(1)}: it has no such entry yet; +{unknown.group(1)}=… adds one"
        told = f"there are: {', '.join(every)}" if 0 < len(every) <= 8 else "--help lists the keys"
        return f"unknown key {unknown.group(1)}{nearest(unknown.group(1), every)} ({told})"
    option = re.search(r"Could not find '([^']+)'", text)
    if option and "/" in option.group(1):
        group, name = option.group(1).rsplit("/", 1)
        options = sorted(
            {f.stem for root in ("configs", "shards", "slurm") for f in (folder(root) / group).glob("*.yaml")}
        )
        return f"no {group} named '{name}'{nearest(name, options) or '.'} There are: {', '.join(options)}"
    key = getattr(error, "full_key", None)
    if isinstance(error, ConfigKeyError) and key:
        parent, _, last = str(key).rpartition(".")
        schema = OmegaConf.structured(get_class(_defaults(verb, [], "")._schema_))
        node = OmegaConf.select(schema, parent) if parent else schema
        return f"unknown key {key}{nearest(last, [str(name) for name in node])}"
    return f"{key}: {text.split(' full_key')[0]}" if key else text.split(" See https")[0]


def _defaults(verb: str, overrides: list[str], bad: str) -> DictConfig:
    """The configuration without the override that failed, to name the keys that exist."""
    good = [o for o in overrides if o.lstrip("+~").split("=")[0] != bad and "/" not in o.split("=")[0]]
    search = f"hydra.searchpath=[file://{folder('shards')},file://{folder('slurm')}]"
    with initialize_config_dir(version_base=None, config_dir=str(folder("configs"))):
        for attempt in (good, [o for o in good if "." not in o.split("=")[0]], []):
            try:
                return hydra_compose(config_name=verb, overrides=[search, *attempt])
            except (HydraException, OmegaConfBaseException):
                continue  # a second bad override: fall back to fewer of them, only to list the known keys
    return OmegaConf.create()
