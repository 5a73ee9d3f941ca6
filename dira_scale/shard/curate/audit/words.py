"""A dataset's words from its recipe and this program, which cannot be distinguished from leaks."""

import re
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa

from dira_scale.archive.deidentify import MANUFACTURERS, SEXES, VIEWS
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.sample import FILLED
from dira_scale.data.manifest import BOX, MANIFEST_FILE, QUARANTINE, SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.data.manifest.croissant import croissant
from dira_scale.data.manifest.schema import POSITION, SLICE
from dira_scale.shard.curate.audit.metadata import strings, tokens

CLASSES = {
    "sex": sorted(set(SEXES.values())),
    "age": [str(age) for age in range(91)],
    "view": [*VIEWS, "OTHER"],
    "manufacturer": [*MANUFACTURERS, "other"],
}
NUMBERS = {FILLED: r"[1-9]\d{0,2}", SLICE: r"\d{1,4}", POSITION: r"-?\d{1,4}\.\d"}
FILES = {"tar", "json", "parquet", "croissant", "manifest", "dataset", "quarantine", "mask", "ustar"}
# Words of the rejection reasons (a test keeps the list complete).
REASONS = """
    12 16 16-bit 255 absurd accepts after against all an and another apart archive are array as at axes be before
    begin below beside between beyond binary bit bits box boxes burned but by bytes can candidate cannot channels
    check claims close coding colour colours columns complex compressed contain continue copy csv cut damaged data
    dataset decode decoding decompressing dicom differ different dims distance distances do does duplicate each
    elementdatafile empty encode encoding end ends exactly extent fewer file files findings first fit floats folder
    for four fractional frame frames from gantry gap geometry give grey grid grids gzip has have hdr header here
    hold image img impossible in indices infinite inflates instead integers irregular is it its jpeg json jsrt keep
    kind labels lacks large leave leaves length lengths less lettering lies line lines link list listed mask masks
    may metaimage millimetres min missing modalities modality more most must name names nan negative neither nifti
    nii no none nor not npy npz nrrd number numbers numpy of offsets on one or order orientation orientations other
    out outline outside overlap pages pairs patient permissionerror pixel pixels png position radiograph raw reaches
    read readings reads recipe recipe.burned_in recipe.dims recipe.modality recipe.volume.irregular rectangles
    regular resample row rows run save say says scan screen seem seg segmentation segments series several shape
    sheared shifted short shorter shot show side single size sizes skip slice slices space spacing spacings span
    split study such table tables tagged tell test text than that the them these this three tiff tilt time tissue to
    together too training twice two uid uint8 uneven unlabelled value values volume volumes voxel voxels was where
    which while whole whose with without would xml zero
"""


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
    values += [list(asdict(info)), _croissant(dataset), sorted(FILES), REASONS]
    return {word for value in values for text in strings("", value) for word in tokens(text.text)}


def _croissant(dataset: ShardedDataset) -> dict[str, Any]:
    return croissant(dataset.info, dataset.root / MANIFEST_FILE)


def _attributes(dataset: ShardedDataset) -> dict[str, set[str]]:
    """The stored attributes, with their values."""
    values: dict[str, set[str]] = {}
    for chunk in dataset.table["attributes"].chunks:
        pairs = pa.table({"name": chunk.keys, "value": chunk.items}).group_by(["name", "value"]).aggregate([])
        for pair in pairs.to_pylist():
            values.setdefault(pair["name"], set()).add(pair["value"])
    return values
