"""A dataset's description in MLCommons Croissant (http://mlcommons.org/croissant/1.1), with what is known of it in the
vocabulary of responsible AI (http://mlcommons.org/croissant/RAI/1.0).

Only what ``dataset.json`` knows is said: an address, creators and the date of publication are the publisher's to add;
biases are left out, as nobody has looked for them.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from dira_scale.dataset.manifest import MANIFEST_FILE, DatasetInfo

TERMS = (  # of the specification's appendix 1, then those that mlcroissant asks of a context, too
    "annotation arrayShape citeAs column containedIn equivalentProperty excludes extract field fileObject fileProperty "
    "fileSet format includes isArray isLiveDataset jsonPath key md5 parentField readLines recordSet references regex "
    "sdVersion separator source subField transform unArchive value path repeated replace samplingRate"
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in TERMS.split()},
}
CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
# The registered type, and the only one by which mlcroissant reads Parquet.
PARQUET = ["application/vnd.apache.parquet", "application/x-parquet"]
SPDX = r"(?:CC-BY(?:-NC)?(?:-SA|-ND)?-\d\.\d|CC0-1\.0|Apache-2\.0)(?=,|$)"  # begins a licence, as recipes write it
USE = [
    "Training, fine-tuning and evaluation of networks in research, on the terms of the licence.",
    "Not for diagnosis, triage and any other decision about a patient.",
]
LETTERING = {  # by recipe.burned_in
    "refuse": "Images that seem to show lettering, by header or pixels, were rejected; the search does not find all.",
    "tagged": "Images whose headers tell of lettering were rejected; the pixels were not searched.",
    "keep": "Lettering in the pixels was not searched for.",
}


def croissant(info: DatasetInfo, manifest: Path) -> dict[str, Any]:
    """JSON-LD: the files, the manifest's columns of numbers and texts as a record set, and what is known of both."""
    counts = ", ".join(f"{count} {split}" for split, count in info.counts.items())
    channels = info.channels or (["red", "green", "blue"] if info.in_colour else [])
    # Columns of numbers, texts, and lists of them.
    plain = [c for c in info.schema if not pa.types.is_nested(getattr(c.type, "value_type", c.type))]
    fields = [_field(column, info) for column in plain]
    with manifest.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    spdx, address = re.match(SPDX, info.licence), re.search(r"https?://\S+", info.licence)
    url = f"https://spdx.org/licenses/{spdx[0]}.html" if spdx else address[0] if address else ""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": info.name,
        "description": f"{info.modality} images as WebDataset shards with a Parquet manifest: {counts}.",
        "license": {"@type": "sc:CreativeWork", "name": info.licence} | ({"url": url} if url else {}),
        "version": f"{info.format_version}.0.0",
        **({"variableMeasured": channels} if channels else {}),
        **{f"rai:{name}": value for name, value in _responsible(info) if value},
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": MANIFEST_FILE,
                "contentUrl": MANIFEST_FILE,
                "encodingFormat": PARQUET,
                "sha256": digest,
            },
            {"@type": "cr:FileSet", "@id": "shards", "encodingFormat": "application/x-tar", "includes": "*.tar"},
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "key": {"@id": "samples/key"},
                "field": [field for field in fields if field.get("arrayShape") != "0"],  # of no labels, or affine in 2D
            }
        ],
    }


def _responsible(info: DatasetInfo) -> Iterator[tuple[str, str | list[str]]]:
    """Yield the properties of RAI 1.0; empty where there is nothing to tell. A recipe without a key, as that of visual
    words, tells nothing of it, and that of a stranger's dataset can hold anything."""
    recipe, source = info.recipe, str(info.recipe.get("_target_"))
    drawn, words, volumes = source.startswith("Phantom"), recipe.get("words_of"), recipe.get("dims") == 3
    origin = f"Existing {info.modality} images, by the source {source}; from where, when and whom is not recorded here."
    if drawn:
        origin = "Phantoms, drawn by dira_scale: nobody was imaged."
    elif words:
        origin = f"Crops from the images of another sharded dataset, whose content has the hash {words}."
    yield "dataCollection", origin

    bits = f" of {recipe['bits']} bits" if "bits" in recipe else ""
    side = f", the larger side at most {recipe['max_side']} pixels" if recipe.get("max_side") else ""
    form = f"{info.codec}{' (lossy)' if info.codec == 'jpg' else ''}{bits}{side}"
    steps = [f"Stored by dira_scale {info.tool_version} as {form}; the recipe is in dataset.json."]
    rejected = f"{info.quarantined} inputs were rejected: quarantine.parquet has the reasons."
    steps += [rejected] if info.quarantined else []
    steps += [f"Splits: {info.split_remark or 'by patient, as far as the source tells patients apart'}."]
    yield "dataPreprocessingProtocol", steps

    volume = recipe.get("volume")
    resampled = volumes and isinstance(volume, dict) and volume.get("irregular") == "resample"
    filled = "Uneven and missing slices of a series are interpolated; the attribute filled_slices counts the missing."
    yield "dataImputationProtocol", filled if resampled else ""
    missing = ["A label that is not known is NaN."] if info.label_names else []
    missing += ["A channel that a sample lacks is 0, its low and high are NaN."] if info.channels else []
    yield "dataCollectionMissingData", " ".join(missing)

    labels = "Labels are the source's, by the recipe in dataset.json; by whom and how they were made is not recorded."
    if words:
        labels = "The label is the number of a visual word, found by dira_scale among features; nobody annotated it."
    yield "dataAnnotationProtocol", labels if info.label_names else ""
    yield "machineAnnotationTools", [f"dira_scale {info.tool_version}"] if words else []

    key = {"True": " under a secret key", "False": " under a public key"}.get(str(recipe.get("secret")), "")
    kept = ["spacing"] + ["affine"] * (info.dims == 3) + ["slice", "position"] * bool(recipe.get("slices"))
    if isinstance(attributes := recipe.get("attributes"), list):
        kept += [f"{name} (at most 90)" if name == "age" else str(name) for name in attributes]
    personal = [] if drawn else ["Medical images of persons; dira_scale hid nothing in the pixels, no face either."]
    personal += [f"Names of files, patients and studies became HMAC-SHA-256{key}."]
    personal += [f"Stored of headers and tables beside labels, where known: {', '.join(kept)}."]
    lettering = "tagged" if volumes and recipe.get("burned_in") == "refuse" else str(recipe.get("burned_in"))
    personal += [LETTERING[lettering]] if lettering in LETTERING and not drawn else []
    yield "personalSensitiveInformation", personal

    shared = info.patients_in_two_splits
    limit = f"{shared} patients are in two splits, as published lists have it: held-out figures are too good."
    yield "dataLimitations", [limit] if shared else []
    yield "dataUseCases", USE


def _field(column: pa.Field, info: DatasetInfo) -> dict[str, Any]:
    several = pa.types.is_list(column.type)
    number = column.type.value_type if several else column.type
    kind = "sc:Text" if number == pa.string() else "sc:Float" if pa.types.is_floating(number) else "sc:Integer"
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"samples/{column.name}",
        "dataType": kind,
        "source": {"fileObject": {"@id": MANIFEST_FILE}, "extract": {"column": column.name}},
    }
    if several:
        lengths = {"labels": len(info.label_names), "spacing": info.dims, "affine": 16 * (info.dims == 3)}
        field |= {"isArray": True, "arrayShape": str(lengths.get(column.name, len(info.channels)))}
    if column.name == "labels":  # by name, of one of several classes their numbers' meaning
        names = [f"{name} ({', '.join(c)})" if (c := info.classes.get(name)) else name for name in info.label_names]
        field |= {"dataType": [kind, "cr:Label"], "description": "; ".join(names)}
    return field
