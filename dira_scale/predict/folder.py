"""The images of a folder, each read and stored in memory as a conversion to shards would store it."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from dira_scale.archive.imaging.colour import GREY
from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.settings import VolumeSettings
from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.plan import Item
from dira_scale.archive.reading import read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import sample_of
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.bids import Bids
from dira_scale.archive.sources.brats import Brats
from dira_scale.archive.sources.folder import Folder
from dira_scale.archive.sources.sequences import Sequences
from dira_scale.archive.sources.volumes import Volumes
from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.base.storage.walk import folder_at
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import SIDES
from dira_scale.judge.evaluation.inference import Stored
from dira_scale.predict.config import SOURCE
from dira_scale.predict.geometry import ImageGeometry, Space
from dira_scale.predict.images import Loaded
from dira_scale.train.runs.shape import shaped

# Stripped from a source's name where the mask's own is put.
SUFFIXES = (".nii.gz", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".npz", ".dcm", ".dicom", ".nii", ".mha",
            ".mhd", ".nrrd", ".nhdr")  # fmt: skip
RESHARD = "name a dataset that `shard` has converted, like=OUT"


class FolderImages:
    """All files below ``folder``, as images of a dataset of this ``conversion`` (the recipe in its ``dataset.json``).

    Raises UserError if there is none, or the network has other dimensions.
    """

    def __init__(
        self, folder: str, conversion: Mapping[str, Any] | None, dimensions: int, names: str, key_file: str | None,
        workers: int,
    ) -> None:  # fmt: skip
        folder_at(folder, "images")
        self.recipe = recipe_of(conversion, dimensions)
        hasher = None if names == SOURCE else self.recipe.hasher(key_file)[0]
        with at("recipe", {"images": "images"}):
            records = [*_records(conversion or {}, folder, dimensions, workers)]
        if not records:
            raise UserError(f"images={folder} has no files")
        keys = (hasher("key", record.name) if hasher else record.name for record in records)
        self.items = [Item(key, "", "", "", record) for key, record in zip(keys, records, strict=True)]
        self.items.sort(key=lambda item: item.key)
        self.keys = [item.key for item in self.items]
        self.targets = self.keys
        if names == SOURCE:
            ends = (next((end for end in SUFFIXES if key.lower().endswith(end)), "") for key in self.keys)
            self.targets = [key[: len(key) - len(end)] for key, end in zip(self.keys, ends, strict=True)]
        listed = json.dumps([[item.key, item.record.size] for item in self.items])
        self.about = {"images": len(self.items), "names": names, "hash": hashlib.sha256(listed.encode()).hexdigest()}

    def load(self, number: int) -> Loaded:
        item = self.items[number]
        read = read_input(item, self.recipe)
        sample = sample_of(item, read, self.recipe)
        row, dimensions = sample.row, self.recipe.dims
        sides = tuple(row[name] for name in SIDES[dimensions])
        channels = () if row["channels"] == 1 else (row["channels"],)
        shape = (*sides, *channels) if dimensions == 2 else (*channels, *sides)
        low, high = (np.asarray(row[end], np.float32) for end in ("low", "high"))
        stored = Stored(sample.payload, row["codec"], shape, dimensions, low, high, row["spacing"], bits=row["bits"])
        if isinstance(read, GreyImage):
            return Loaded(stored, ImageGeometry(read.pixels.shape[:2], read.spacing))
        return Loaded(stored, Space.of(leader_of(item), read, np.array(row["affine"]).reshape(4, 4)))

    def name(self, number: int) -> str | None:
        return self.items[number].record.name


def _records(conversion: Mapping[str, Any], folder: str, dimensions: int, workers: int) -> Iterator[SourceRecord]:
    """The files of ``folder``; of a network of several sequences its sessions, or files with a channel for each.

    Raises UserError.
    """
    names = shaped(list[str], conversion.get("channels", []), RESHARD, "channels")
    target = conversion.get("_target_")
    named = {key: conversion[key] for key in ("sequences", "series") if conversion.get(key)}
    if names and target == Brats.__name__:
        named = {"sequences": {kind: f"*_{kind}.nii*" for kind in names}}
    if named and not conversion.get("split_sequences"):
        kind = Bids if target == Bids.__name__ else Sequences
        sessions = kind(folder, **named, missing=conversion.get("missing", "reject"))
        sessions.whole = sessions.missing == "reject"  # else one that is predicted alone may lack any
        yield from sessions.records(workers)
        return
    for record in (Volumes(folder) if dimensions == 3 else Folder(folder)).records(workers):
        whole = names and isinstance(record.image, Path)
        yield replace(record, image=Channels(tuple(names), (record.image,))) if whole else record  # type: ignore[arg-type]


def leader_of(item: Item) -> Path | SourceImage:
    """The file or series on whose grid an image is read."""
    image = item.record.image
    return image.leader if isinstance(image, Channels) else image


def conversion_of(like: str | None, known: Mapping[str, Any] | None, network: str) -> Mapping[str, Any]:
    """Return the conversion of the dataset ``like``, else the ``known`` one. Raises UserError without either."""
    if like is not None:
        return ShardedDataset.open(like, check_shards=False).info.conversion
    if not known:
        raise UserError(
            f"like: the dataset that {network} was trained on is not where it was, so it is unknown how images are "
            "read: name it, or one converted in the same way, like=OUT"
        )
    return known


def recipe_of(conversion: Mapping[str, Any] | None, dimensions: int) -> Recipe:
    """Return how images without masks and boxes are read: not cropped to these.

    Raises UserError for one that is not of a conversion, or of another kind of images.
    """
    names = Recipe.key_names()
    if not conversion or any(name not in conversion for name in names):
        raise UserError("like: this dataset does not say how its images were read; name one that `shard` has converted")
    if conversion["slices"]:
        raise UserError("like: the network sees slices of volumes (recipe.slices): shard the folder likewise, and "
                        "predict data.shards")  # fmt: skip
    if conversion["dims"] != dimensions:
        raise UserError(f"like: the dataset has {conversion['dims']} dimensions, the network {dimensions}")
    given = {name: conversion[name] for name in names} | {"colour": conversion.get("colour", GREY)}
    for name, kind in get_type_hints(Recipe).items():
        if name in names and name != "volume":
            shaped(kind, given[name], RESHARD, name)
    volume = shaped(VolumeSettings, given["volume"], RESHARD, "volume")
    if isinstance(volume.crop, Mapping):
        volume = replace(volume, crop="none")
    values: dict[str, Any] = given | {"volume": volume, "slices": None}
    if values["codec"] != "jpg":  # others lose nothing
        values["codec"] = "npy"
    return Recipe(**values, source={})
