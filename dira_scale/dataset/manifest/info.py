"""``dataset.json``: what a dataset is, and how it was made."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.store import is_local
from dira_scale.base.storage.streams import fetch
from dira_scale.dataset.manifest.checks import SHARD, SPLIT, is_shown
from dira_scale.dataset.manifest.schema import CHANNELS_VERSION, FORMAT_VERSION, schema_of
from dira_scale.dataset.pixels.limits import MAX_CHANNELS

LARGEST = 2**26  # bytes of a dataset.json: 900,000 shards


class Flag(NamedTuple):
    name: str
    number: int  # of the label in ``label_names``
    value: int | None  # of a label of classes: the class that is yes, all others are no


def flags_of(label_names: Sequence[str], classes: Mapping[str, Sequence[str]]) -> list[Flag]:
    """Return the labels as yes and no, those of ``classes`` with a flag for each class."""
    flags = []
    for number, name in enumerate(label_names):
        if names := classes.get(name):
            flags += [Flag(f"{name}: {label}", number, value) for value, label in enumerate(names)]
        else:
            flags.append(Flag(name, number, None))
    return flags


def in_colour(recipe: Mapping[str, Any]) -> bool:
    """Return whether images converted by this ``recipe`` are red, green and blue."""
    return bool(recipe.get("colour") in ("rgb", "any"))


def as_flags(labels: np.ndarray, flags: Sequence[Flag]) -> np.ndarray:
    """float32 [n, L] -> [n, F]: each label, or whether its value is the flag's; NaN = unknown."""
    if all(flag.value is None for flag in flags):
        return labels
    columns = []
    for flag in flags:
        column = labels[:, flag.number]
        flags_or_nan = np.where(np.isnan(column), np.nan, column == flag.value)
        columns.append(column if flag.value is None else flags_or_nan.astype(np.float32))
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class DatasetInfo:
    """The content of ``dataset.json``."""

    name: str
    modality: str
    dims: int  # 2 | 3
    codec: str
    label_names: list[str]
    counts: dict[str, int]  # samples per split
    quarantined: int
    shards: dict[str, int]  # file name -> bytes
    recipe: dict[str, Any]  # with ``hash_key``: identifies the key used without revealing it
    recipe_hash: str
    licence: str
    tool_version: str
    betons: dict[str, int] = field(default_factory=dict)  # the same samples in FFCV's format, if made: name -> bytes
    plan_hash: str = ""  # of the plan: names (as keyed hashes), splits, labels
    checksums: dict[str, str] = field(default_factory=dict)  # file name -> 64-bit xxHash3 of the whole shard, hex
    classes: dict[str, list[str]] = field(default_factory=dict)  # of labels that are the number of a class: its names
    patients_in_two_splits: int = 0  # more than 0 only if published lists have it so (recipe.lists)
    format_version: int = FORMAT_VERSION
    channels: list[str] = field(default_factory=list)  # their names where samples have several: format version 4

    def __post_init__(self) -> None:
        if self.channels:
            object.__setattr__(self, "format_version", CHANNELS_VERSION)

    def to_json(self) -> str:
        content = asdict(self)
        if not self.channels:
            del content["channels"]
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def described(self, *more: Any) -> str:
        """Return a hash of all here that a row of the manifest is read with, and of ``more``."""
        facts = [self.dims, [*self.counts.items()], [*self.shards.items()], self.label_names, self.channels, *more]
        return xxhash.xxh3_128_hexdigest(json.dumps(facts).encode())

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.channels)

    @property
    def flags(self) -> list["Flag"]:
        """Return the labels as yes and no, those of classes with a flag for each class."""
        return flags_of(self.label_names, self.classes)

    @property
    def conversion(self) -> dict[str, Any]:
        """Return the settings for reading images that are not in the dataset: its recipe, and the names of channels."""
        return self.recipe | ({"channels": self.channels} if self.channels else {})

    @property
    def in_colour(self) -> bool:
        return in_colour(self.recipe)

    def incomparable(self, other: "DatasetInfo") -> str | None:
        """Why a patient of both has different keys in them, or may have; None if it has the same key in both."""
        reasons = ("hash_key", "were hashed with two keys"), ("archive", "are of two archives by their recipes")
        for key, reason in reasons:
            values = [info.recipe.get(key, "") for info in (self, other)]
            if "" in values:
                return f"one of them does not say with which {key.replace('_', ' ')} it was made"
            if values[0] != values[1]:
                return f"their patients {reason}"
        return None

    @property
    def published_lists(self) -> str:
        """Return the lists that decided the splits, each by the start of its SHA-256; empty if none did."""
        lists = self.recipe.get("lists")
        if not isinstance(lists, dict):
            return ""
        sums = {str(split): str(checksum)[:12] for split, checksum in lists.items()}
        text = ", ".join(f"{split} {start}" for split, start in sums.items())
        return text if is_shown(text) else ""

    @property
    def split_remark(self) -> str:
        """Return a readable remark on the splits' source, if published lists decided them; empty if none did."""
        if not self.published_lists:
            return ""
        count = self.patients_in_two_splits or "none"
        return f"published lists (recipe.lists; SHA-256: {self.published_lists}); patients in two splits: {count}"

    @classmethod
    def read(cls, path: Path) -> "DatasetInfo":
        """Raises DatasetError when ``path`` is absent, damaged, of another version or lacks a field."""
        try:
            text = fetch(path, LARGEST)
        except FileNotFoundError as error:
            if not is_local(path) and "http" in path.fs.protocol:  # type: ignore[attr-defined]
                raise DatasetError(
                    f"no sharded dataset at {path.parent}: the server has no {path.name} there (HTTP 404): check the "
                    "address, which is that of the dataset's folder"
                ) from error
            folder, words = path.parent, ["recipe=…", f"out={path.parent}"]
            if (folder / "checkpoints").is_dir():
                raise DatasetError(f"{folder} is a run's folder, not a sharded dataset: name the latter") from error
            if is_local(folder) and folder.is_dir() and any(folder.iterdir()):  # perhaps of images
                words = ["recipe=folder", f"recipe.images={folder}", f"out=out/shards/{folder.name}"]
            command = " ".join(word if "…" in word else shlex.quote(word) for word in words)
            raise DatasetError(
                f"no sharded dataset at {folder}: {path.name} is missing; make one with: "
                f"python -m dira_scale.shard {command}"
            ) from error
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
        try:
            content = json.loads(text)
            version = content["format_version"]
        except (ValueError, KeyError, TypeError, RecursionError, IsADirectoryError) as error:
            raise DatasetError(f"{path} is damaged ({type(error).__name__}: {error}): shard again") from error
        if version not in (FORMAT_VERSION, CHANNELS_VERSION):
            raise DatasetError(
                f"{path} has format version {version}, this dira_scale reads {FORMAT_VERSION} and {CHANNELS_VERSION}: "
                "shard again, or use the dira_scale that wrote it"
            )
        several = version == CHANNELS_VERSION
        names = [field.name for field in fields(cls) if several or field.name != "channels"]
        if missing := {*names} - content.keys():
            raise DatasetError(f"{path} lacks {', '.join(sorted(missing))}: shard again")
        info = cls(**{name: content[name] for name in names})
        if wrong := info._wrong() or ("channels" if several != bool(info.channels) else None):
            raise DatasetError(f"{path} is damaged (invalid {wrong}): shard again")
        return info

    def _wrong(self) -> str | None:
        """Return the first field with an invalid value: the file may come from an untrusted source."""
        for name in ("name", "modality", "codec", "recipe_hash", "licence", "tool_version", "plan_hash"):
            if not isinstance(getattr(self, name), str):
                return name
        for name, kind in (("counts", int), ("shards", int), ("betons", int), ("checksums", str)):
            entries = getattr(self, name)
            if not isinstance(entries, dict) or not all(type(value) is kind for value in entries.values()):
                return name
        for names in (self.shards, self.betons):  # a subset's are in another folder, but never at an absolute path
            if invalid := [shard for shard in names if not SHARD.fullmatch(shard)]:
                return f"shard {invalid[0][:60]!r}"
        if invalid := [split for split in self.counts if not SPLIT.fullmatch(split)]:  # files are named after it
            return f"split {invalid[0][:60]!r}"
        if not isinstance(self.label_names, list) or not all(isinstance(label, str) for label in self.label_names):
            return "label_names"
        several = self.channels
        if not isinstance(several, list) or not all(isinstance(name, str) for name in several):
            return "channels"
        if len(several) == 1 or not len(set(several)) == len(several) <= MAX_CHANNELS:
            return "channels"
        if not isinstance(self.classes, dict) or not self.classes.keys() <= set(self.label_names):
            return "classes"
        every = self.classes.values()
        if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in every):
            return "classes"
        named = [name for names in every for name in names]
        for text in (self.name, self.modality, self.codec, self.licence, *self.label_names, *self.channels, *named,
                     *self.counts):  # fmt: skip
            if not is_shown(text):
                return "text"
        if not isinstance(self.recipe, dict):
            return "recipe"
        if self.dims not in (2, 3):
            return "dims"
        return next(
            (n for n in ("dims", "quarantined", "patients_in_two_splits") if type(getattr(self, n)) is not int), None
        )
