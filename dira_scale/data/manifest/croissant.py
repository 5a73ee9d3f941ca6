"""The dataset's MLCommons Croissant 1.0 description (https://docs.mlcommons.org/croissant/docs/croissant-spec.html)."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from dira_scale.data.manifest import MANIFEST_FILE, DatasetInfo

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "recordSet": "cr:recordSet",
    "repeated": "cr:repeated",
    "sc": "https://schema.org/",
    "source": "cr:source",
}


def croissant(info: DatasetInfo, manifest: Path) -> dict[str, Any]:
    """JSON-LD: the files, and the manifest's plain columns as a record set."""
    counts = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    columns = [
        column for column in info.schema if not pa.types.is_nested(column.type) or column.name in ("low", "high")
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": info.name,
        "description": f"{info.modality} images as WebDataset shards with a Parquet manifest: {counts}.",
        "license": info.licence,
        "version": f"{info.format_version}.0.0",
        **({"variableMeasured": info.channels} if info.channels else {}),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": MANIFEST_FILE,
                "contentUrl": MANIFEST_FILE,
                "encodingFormat": "application/vnd.apache.parquet",
                "sha256": _sha256(manifest),
            },
            {"@type": "cr:FileSet", "@id": "shards", "encodingFormat": "application/x-tar", "includes": "*.tar"},
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "field": [_field(column) for column in columns],
            }
        ],
    }


def _field(column: pa.Field) -> dict[str, Any]:
    several = pa.types.is_list(column.type)  # a number for each channel
    number = column.type.value_type if several else column.type
    kind = "sc:Text" if number == pa.string() else "sc:Float" if pa.types.is_floating(number) else "sc:Integer"
    field = {
        "@type": "cr:Field",
        "@id": f"samples/{column.name}",
        "dataType": kind,
        "source": {"fileObject": {"@id": MANIFEST_FILE}, "extract": {"column": column.name}},
    }
    return field | ({"repeated": True} if several else {})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
