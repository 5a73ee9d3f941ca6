"""A dataset's words from its recipe and this program, which cannot be distinguished from leaks."""

import ast
import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

import dira_scale
from dira_scale.archive.deidentify import MANUFACTURERS, SEXES, VIEWS
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.sample import FILLED
from dira_scale.archive.slices import EMPTY
from dira_scale.archive.sources.paths import UNMATCHED
from dira_scale.data.manifest import BOX, MANIFEST_FILE, QUARANTINE, SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.data.manifest.croissant import croissant
from dira_scale.data.manifest.schema import POSITION, SLICE
from dira_scale.shard.curate.audit.texts import strings, tokens

CLASSES = {
    "sex": sorted(set(SEXES.values())),
    "age": [str(age) for age in range(91)],
    "view": [*VIEWS, "OTHER"],
    "manufacturer": [*MANUFACTURERS, "other"],
}
NUMBERS = {FILLED: r"[1-9]\d{0,2}", SLICE: r"\d{1,4}", POSITION: r"-?\d{1,4}\.\d"}
FILES = {"tar", "json", "parquet", "croissant", "manifest", "dataset", "quarantine", "mask", "ustar"}
# Functions whose arguments are or become reasons.
GIVEN_TO = {"RejectedError", "GeometryError", "QuarantinedError", "Refused", "rejects", "replace", "SourceRecord",
            "_found_series"}  # fmt: skip


def own_words(dataset: ShardedDataset) -> set[str]:
    """All these words, in lower case, and the texts that contain them."""
    info = dataset.info
    values: list[Any] = [info.name, info.modality, info.codec, info.licence, info.tool_version, info.label_names]
    values += [info.counts, [str(n) for n in info.counts.values()], [str(size) for size in info.shards.values()]]
    values += [list(info.shards), info.checksums, info.recipe_hash, info.plan_hash]
    if identity_hash(info.recipe) == info.recipe_hash:  # else it was edited later
        values.append(info.recipe)
    attributes = _attributes(dataset)
    values += [CLASSES[name] for name in attributes if name in CLASSES] + [FILLED, SLICE, POSITION]
    for name, form in NUMBERS.items():
        values += [number for number in attributes.get(name, ()) if re.fullmatch(form, number)]
    values += [SCHEMA.names, QUARANTINE.names, [field.name for field in BOX], [f.name for f in fields(DatasetInfo)]]
    values += [list(asdict(info)), croissant(info, dataset.root / MANIFEST_FILE), sorted(FILES), list(reasons())]
    return {word for value in values for text in strings("", value) for word in tokens(text.text)}


def reasons() -> Iterator[str]:
    """The texts in this program's code of which the reasons for rejections are made."""
    yield from (EMPTY, UNMATCHED)
    package = Path(dira_scale.__path__[0])
    for path in (*package.glob("imaging/**/*.py"), *package.glob("archive/**/*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in GIVEN_TO:
                parts = (part.value for part in ast.walk(call) if isinstance(part, ast.Constant))
                yield from (part for part in parts if isinstance(part, str))


def _attributes(dataset: ShardedDataset) -> dict[str, set[str]]:
    """The stored attributes, with their values."""
    values: dict[str, set[str]] = {}
    for chunk in dataset.table["attributes"].chunks:
        pairs = pa.table({"name": chunk.keys, "value": chunk.items}).group_by(["name", "value"]).aggregate([])
        for pair in pairs.to_pylist():
            values.setdefault(pair["name"], set()).add(pair["value"])
    return values
