"""A command called as a function: the same keys, errors as exceptions."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dira_scale.commands import COMMANDS
from dira_scale.config.compose import compose
from dira_scale.config.keys import typed
from dira_scale.config.logs import Errors
from dira_scale.errors import UserError
from dira_scale.machine.workers import refuse_in_worker
from dira_scale.runs.exit_codes import BAD_INPUT, FAILED


def carried_out(verb: str, output: str | Path, keys: Mapping[str, Any], settings: Mapping[str, Any] | None) -> Path:
    """Call the function that a verb's module has by its name; where it has written.

    Raises UserError for bad input, RuntimeError for all else that the verb says.
    """
    refuse_in_worker(verb)
    values = {**keys, (key := COMMANDS[verb].output): output, **(settings or {})}
    cfg = compose(verb, [f"{name}={typed(value)}" for name, value in values.items()])
    with Errors() as errors:
        code = getattr(import_module(f"dira_scale.{verb}"), verb)(cfg)
    if code in (BAD_INPUT, FAILED):
        raise (UserError if code == BAD_INPUT else RuntimeError)("; ".join(errors) or f"{key}={cfg[key]}: see log.txt")
    return Path(cfg[key])
