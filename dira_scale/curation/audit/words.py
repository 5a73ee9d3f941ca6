"""The words that a dataset has of its recipe and of this program: of these a leak cannot be told."""

import re
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa

from dira_scale.curation.audit.metadata import strings, tokens
from dira_scale.data.manifest import BOX, MANIFEST_FILE, QUARANTINE, SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.data.manifest.croissant import croissant
from dira_scale.ingest.deidentify import MANUFACTURERS, SEXES, VIEWS
from dira_scale.ingest.recipe import identity_hash
from dira_scale.ingest.sample import FILLED

CLASSES = {
    "sex": sorted(set(SEXES.values())),
    "age": [str(age) for age in range(91)],
    "view": [*VIEWS, "OTHER"],
    "manufacturer": [*MANUFACTURERS, "other"],
}
FILES = {"tar", "json", "parquet", "croissant", "manifest", "dataset", "quarantine", "mask", "ustar"}
# Words of the reasons for which inputs are rejected (a test holds the list complete).
REASONS = """
    12 16 16-bit 255 absurd against all an and another apart archive are array as at axes be before begin behind below
    beside between beyond binary bit bits box boxes burned but by bytes can candidate cannot channels check
    claims close coding colour colours columns complex compressed copy csv cut damaged data dataset decode
    decoding decompressing dicom differ different dims distance distances do does each elementdatafile else
    empty encode encoding end ends exactly extent fewer file files first floating folder for four fractional
    frame frames from gantry gap geometry give go grey grid grids gzip has have hdr header here hold image img
    impossible in indices infinite inflates instead integers irregular is it its jpeg json jsrt keep kind labels
    lacks large leave leaves length lengths less lettering lie lies like line lines list listed looks mask masks
    may met metaimage millimetres missing modalities modality more most must name names nan negative neither
    nifti nii no none nor not npy npz nrrd number numbers numpy of offsets on one or order orientation
    orientations other out outline outside overlap pages pairs patient permissionerror pixel pixels place png
    position radiograph raw reaches read readings recipe recipe.burned_in recipe.dims recipe.modality
    recipe.volume.irregular rectangles regular resample row rows run same save says scan screen seg segmentation
    segments series several shape sheared shifted short shorter shot show side single size sizes skip slice
    slices something space spacing spacings span split study such table tables tagged takes tell test text than
    that the them there these this three tiff tilt time to together told too training twice two uid uint8 uneven
    unlabelled value values volume volumes voxel voxels was what where which while whole with without would xml
    zero
"""


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
    told += [list(asdict(info)), _croissant(dataset), sorted(FILES), REASONS]
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
