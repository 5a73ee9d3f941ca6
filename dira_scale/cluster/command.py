"""A run's command and its name: values with references resolved, as words; a hash of those that decide the result."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dira_scale.config.words import as_words
from dira_scale.runs.identity import EXECUTION

OUTPUT = {"shard": "out", "pretrain": "run", "probe": "out", "export": "out"}  # the key that the sweep sets
# Keys that do not change a run's result, unless the sweep varies them: not in its name. `data.shards` says which data,
# where pretraining's own identity has the data's hashes; a run of other `steps` is another result.
NOT_IN_NAME = {
    "shard": ("workers",),
    "pretrain": tuple(key for key in EXECUTION if key not in ("data.shards", "steps")),
    "probe": ("data.workers",),
}
BENCH_FOLDER = ("gpu", "scaling")  # benchmarks with --out FOLDER; the others have --json FILE, but for this one:
BENCH_SILENT = ("randomness",)
REFERENCE = re.compile(r"\{([a-z]\w*)\}", re.ASCII)
DIGEST = 8  # hexadecimal digits
LABEL = 64  # characters of a name before its hash


def command(
    verb: str, values: Mapping[str, Any], literal: Mapping[str, str], output: str, own: Sequence[Path]
) -> list[str]:
    """The words after ``python -m dira_scale.VERB``: ``values``, those that are typed, and the key of the output."""
    if verb == "bench":
        return _bench_words({**values, **literal}, output)
    typed = [f"{key}={text}" for key, text in literal.items()]
    folders = [word for folder in own for word in ("--config-dir", str(folder))]
    return [*folders, *as_words(verb, values, own), *typed, f"{OUTPUT[verb]}={output}"]


def _bench_words(values: Mapping[str, Any], output: str) -> list[str]:
    """``benchmark: step, cases: [a, b], cold: true`` as ``step --cases a b --cold --json …/step.json``."""
    flags = dict(values)
    name = str(flags.pop("benchmark", ""))
    words = [name]
    for key, value in flags.items():
        several = value if isinstance(value, list) else [value]
        words += [f"--{key.replace('_', '-')}", *([] if value is True else map(str, several))]
    if name not in BENCH_SILENT:
        words += ["--out", output] if name in BENCH_FOLDER else ["--json", f"{output}/{name}.json"]
    return words


def references(value: Any) -> set[str]:
    """The phases in ``"{PHASE}"``, wherever in ``value``."""
    if isinstance(value, str):
        return set(REFERENCE.findall(value))
    inner = value if isinstance(value, list) else [*value, *value.values()] if isinstance(value, dict) else []
    return {found for one in inner for found in references(one)}


def resolved(value: Any, outputs: Mapping[str, str]) -> Any:
    """``value`` with each reference replaced by its phase's output."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda found: outputs[found[1]], value)
    if isinstance(value, dict):
        return {resolved(key, outputs): resolved(one, outputs) for key, one in value.items()}
    return [resolved(one, outputs) for one in value] if isinstance(value, list) else value


def name_of(
    verb: str, identity: Mapping[str, str], varied: Mapping[str, Any], shown: Mapping[str, Any]
) -> tuple[str, str]:
    """A name, and the hash at its end: of the verb and the words that decide its result.

    Args:
        identity: KEY: text, with the ids of needed runs for their outputs.
        varied: the phase's values that are not the same for all runs.
        shown: what a reader knows the run by: those of the needed runs, too.
    """
    digest = hashlib.sha256(json.dumps([verb, _named(verb, identity, varied)]).encode()).hexdigest()[:DIGEST]
    return "-".join(filter(None, [_label(shown), digest])), digest


def _named(verb: str, identity: Mapping[str, str], varied: Mapping[str, Any]) -> dict[str, str]:
    """The part of a command that its name is computed from, sorted by keys."""
    left_out = NOT_IN_NAME.get(verb, ())
    return {
        key: identity[key]
        for key in sorted(identity)
        if key in varied or not any(key == one or key.startswith(f"{one}.") for one in left_out)
    }


def _label(shown: Mapping[str, Any]) -> str:
    """What a reader knows a run by: text as it is, numbers behind the last part of their key."""

    def part(key: str, value: Any) -> str:
        text = "_".join(map(str, value)) if isinstance(value, list) else str(value).rpartition("/")[2]
        return text if isinstance(value, str) else f"{key.rpartition('.')[2]}{text}"

    label = "-".join(part(key, value) for key, value in shown.items())
    return re.sub(r"[^A-Za-z0-9._]+", "-", label)[:LABEL].strip("-._")
