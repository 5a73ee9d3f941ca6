"""A dataset's words from its recipe and this program, which cannot be distinguished from leaks."""

import ast
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dira_scale
from dira_scale.archive.deidentify import MANUFACTURERS, SEXES, VIEWS
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.sample import FILLED
from dira_scale.archive.slices import EMPTY
from dira_scale.archive.sources.paths import UNMATCHED
from dira_scale.data.manifest import BOX, MANIFEST_FILE, QUARANTINE, SCHEMA, ShardedDataset
from dira_scale.data.manifest.croissant import croissant
from dira_scale.data.manifest.schema import POSITION, SLICE
from dira_scale.shard.curate.audit.texts import strings, tokens

ATTRIBUTES = {  # the values that de-identification and conversion give to an attribute
    "sex": "|".join(SEXES.values()),
    "age": r"\d|[1-8]\d|90",
    "view": "|".join([*VIEWS, "OTHER"]),
    "manufacturer": "|".join([*MANUFACTURERS, "other"]),
    FILLED: r"[1-9]\d{0,2}",
    SLICE: r"\d{1,4}",
    POSITION: r"-?\d{1,4}\.\d",
}
FILES = ["tar", "json", "parquet", "croissant", "manifest", "dataset", "quarantine", "mask", "ustar"]
# Functions whose arguments are or become reasons.
GIVEN_TO = {"RejectedError", "GeometryError", "QuarantinedError", "Refused", "rejects", "replace", "SourceRecord",
            "_found_series"}  # fmt: skip


def own_words(dataset: ShardedDataset) -> set[str]:
    """All these words, in lower case, and the texts that contain them."""
    info = asdict(dataset.info)
    if identity_hash(dataset.info.recipe) != dataset.info.recipe_hash:  # it was edited later
        del info["recipe"]
    values: list[Any] = [info, [str(number) for number in (*info["counts"].values(), *info["shards"].values())]]
    values += [SCHEMA.names, QUARANTINE.names, [field.name for field in BOX], FILES, list(ATTRIBUTES)]
    values += [croissant(dataset.info, dataset.root / MANIFEST_FILE), list(_reasons())]
    pairs = {pair for cell in dataset.table["attributes"].to_pylist() for pair in cell or ()}
    values += [value for name, value in pairs if name in ATTRIBUTES and re.fullmatch(ATTRIBUTES[name], value)]
    return {word for value in values for text in strings("", value) for word in tokens(text.text)}


def _reasons() -> Iterator[str]:
    """The texts in this program's code of which the reasons for rejections are made."""
    yield from (EMPTY, UNMATCHED)
    package = Path(dira_scale.__path__[0])
    for path in (*package.glob("imaging/**/*.py"), *package.glob("archive/**/*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in GIVEN_TO:
                parts = (part.value for part in ast.walk(call) if isinstance(part, ast.Constant))
                yield from (part for part in parts if isinstance(part, str))
