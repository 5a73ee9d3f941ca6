"""The words that a dataset has of its recipe and of this program: of these a leak cannot be told."""

import ast
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from dira_scale import ingest
from dira_scale.curation.audit.metadata import strings, tokens
from dira_scale.data.manifest import BOX, MANIFEST_FILE, QUARANTINE, SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.data.manifest.croissant import croissant
from dira_scale.imaging.grey import FLAT
from dira_scale.ingest.deidentify import MANUFACTURERS, SEXES, VIEWS
from dira_scale.ingest.recipe import identity_hash
from dira_scale.ingest.sample import FILLED

CLASSES = {
    "sex": sorted(set(SEXES.values())),
    "age": [str(age) for age in range(91)],
    "view": [*VIEWS, "OTHER"],
    "manufacturer": [*MANUFACTURERS, "other"],
}
MESSAGES = {"RejectedError", "GeometryError", "Rejected", "judged", "replace", "Record"}  # what reasons are given to
FILES = {"tar", "json", "parquet", "croissant", "manifest", "dataset", "quarantine", "mask", "ustar"}


def own_words(dataset: ShardedDataset) -> set[str]:
    """All of them, in lower case, and the texts that they stand in."""
    info = dataset.info
    told: list[Any] = [info.name, info.modality, info.codec, info.licence, info.tool_version, info.label_names]
    told += [info.counts, [str(count) for count in info.counts.values()], [str(size) for size in info.shards.values()]]
    told += [list(info.shards), info.checksums, info.recipe_hash, info.plan_hash]
    if identity_hash(info.recipe) == info.recipe_hash:  # else somebody has written into it since
        told.append(info.recipe)
    attributes = _attributes(dataset)
    told += [CLASSES[name] for name in attributes if name in CLASSES] + [FILLED]
    told += [number for number in attributes.get(FILLED, ()) if re.fullmatch(r"[1-9]\d{0,2}", number)]
    told += [SCHEMA.names, QUARANTINE.names, [field.name for field in BOX], [f.name for f in fields(DatasetInfo)]]
    told += [list(asdict(info)), _croissant(dataset), sorted(FILES), FLAT, sorted(_of_messages())]
    return {word for value in told for text in strings("", value) for word in tokens(text.text)}


def _croissant(dataset: ShardedDataset) -> dict[str, Any]:
    return croissant(dataset.info, dataset.root / MANIFEST_FILE)


def _attributes(dataset: ShardedDataset) -> dict[str, set[str]]:
    """Those that are kept, with the values that each has."""
    found: dict[str, set[str]] = {}
    for chunk in dataset.table["attributes"].chunks:
        pairs = pa.table({"name": chunk.keys, "value": chunk.items}).group_by(["name", "value"]).aggregate([])
        for pair in pairs.to_pylist():
            found.setdefault(pair["name"], set()).add(pair["value"])
    return found


def _of_messages() -> set[str]:
    """Words of the program's own reasons for a rejection: of the strings in the code that reads images and lists them.
    What the phantoms are made of is data, and not among them."""
    found: set[str] = set()
    root = Path(ingest.__path__[0])
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] in ("phantom", "audit"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in MESSAGES:
                found |= {
                    inner.value
                    for inner in ast.walk(node)
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
                }
    return found


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
