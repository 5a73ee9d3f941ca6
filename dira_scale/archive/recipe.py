"""A recipe: the source, and how its images are stored. The keys are explained in ``configs/shard.yaml``."""

import dataclasses
import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from dira_scale.archive.deidentify import Hasher, check_attributes, load_key
from dira_scale.archive.imaging.colour import GREY, ColourMode
from dira_scale.archive.imaging.settings import BurnedIn, ReadSettings, SliceSettings, VolumeSettings
from dira_scale.archive.sources.base import Source
from dira_scale.archive.sources.split_lists import checksums, split_lists, splits_of_patients
from dira_scale.base.arguments import inside
from dira_scale.base.config.border import at
from dira_scale.base.config.keys import typed
from dira_scale.base.config.registry import imported
from dira_scale.base.config.schema import path_arguments
from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.store import locate
from dira_scale.base.storage.walk import folder_at, resolve_links
from dira_scale.dataset.manifest.checks import LONGEST_TEXT, is_shown
from dira_scale.dataset.pixels.codecs import CODECS, GPU, VOLUME_CODECS, gpu_codec

if TYPE_CHECKING:
    from dira_scale.archive.sources.inspect import Inspector

AUTO = "auto"  # of recipe.volume.range
HOUNSFIELD = (-1000, 1000)  # of CT, from air to bone
STANDARD = 1000  # samples of a shard, unless there are many (``splits.samples_a_shard``)


@dataclass(frozen=True)
class Recipe:
    """The keys common to all recipes; ``source`` holds the rest, the arguments of its source's constructor."""

    name: str  # empty only where nothing is stored
    modality: str | None  # None: as the inputs' headers say; those of volumes must (``slices.with_modality``)
    licence: str
    secret: bool
    archive: str | None
    splits: Mapping[str, float]
    official: Mapping[str, Mapping[str, float]] | None
    dims: Literal[2, 3]
    codec: str
    quality: int
    bits: Literal[8, 16]
    max_side: int | None
    min_side: int
    burned_in: BurnedIn
    shard_size: int | None  # None: as the plan has it
    slices: SliceSettings | None
    volume: VolumeSettings
    source: Mapping[str, Any]
    auto_range: bool = False  # recipe.volume.range=auto: that of CT, if it is CT
    colour: ColourMode = GREY

    @classmethod
    def key_names(cls) -> list[str]:
        """The keys that are fields of the same name. One with this default is in no dataset's identity: older datasets
        do not have it."""
        return [field.name for field in dataclasses.fields(cls) if field.name not in ("source", "auto_range", "colour")]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Recipe":
        """Raises UserError if a key is missing or a value invalid."""
        common = [*cls.key_names(), "every", "window", "colour"]
        if missing := [name for name in (*common, "_target_") if name not in config]:
            raise UserError(f"the recipe lacks {', '.join(missing)}")
        keys = {field.name for field in dataclasses.fields(VolumeSettings)}
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["volume"].items()}
        if settings.keys() != keys:
            raise UserError(f"recipe.volume: expected the keys {', '.join(sorted(keys))}, got {', '.join(settings)}")
        auto_range = settings["range"] == AUTO
        if auto_range:
            settings["range"] = HOUNSFIELD if config["modality"] in (None, "CT") else None
        with at("recipe"):
            slices = SliceSettings.from_keys(*(config[name] for name in ("slices", "every", "window")))
            with inside("volume"):
                volume = VolumeSettings(**settings)
        stores_volumes = config["dims"] == 3 and slices is None
        bits = config["bits"] or (16 if stores_volumes else 8)
        codec = config["codec"] or ("b2nd" if stores_volumes else "png")
        values = {name: config[name] for name in cls.key_names()} | {
            "name": config["name"] or "",
            "volume": volume,
            "slices": slices,
            "codec": gpu_codec(bits) if codec == GPU else codec,
            "bits": bits,
        }
        source = {k: v for k, v in config.items() if k not in common}
        for name in ("attributes", "label_columns", "class_columns"):
            if isinstance(source.get(name), str):  # a list of one may be typed without its brackets
                source[name] = [source[name]]
        return cls(**values, source=source, auto_range=auto_range, colour=config["colour"])

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            codecs = [*CODECS, GPU]
            raise UserError(f"recipe.codec={self.codec}{nearest(self.codec, codecs) or ':'} use {', '.join(codecs)}")
        if self.slices and self.dims != 3:
            raise UserError(f"recipe.slices={self.slices.plane} with recipe.dims={self.dims}: only volumes have "
                            "slices, those of recipe=volumes for example; leave it null for images")  # fmt: skip
        with at("recipe"):
            _ = self.reading  # validates its own keys
        stores_volumes = self.dims == 3 and self.slices is None
        if (stores_volumes and self.codec not in VOLUME_CODECS) or (not stores_volumes and self.codec == "b2nd"):
            kind = f"recipe.slices={self.slices.plane}" if self.slices else f"recipe.dims={self.dims}"
            raise UserError(f"recipe.codec={self.codec} with {kind}: volumes are stored as "
                            f"{' or '.join(VOLUME_CODECS)}, images and slices as png, jpg, jp2 or npy")  # fmt: skip
        if self.codec == "jpg" and self.bits != 8:
            raise UserError(f"recipe.bits={self.bits} with recipe.codec=jpg: use 8, or 16 with png, jp2 or npy")
        if not isinstance(self.secret, bool):
            raise UserError(f"recipe.secret={self.secret}: use true or false")
        for name, least in (("shard_size", 1), ("min_side", 1), ("quality", 1), ("max_side", 16)):
            value = getattr(self, name)
            if name in ("max_side", "shard_size") and value is None:
                continue
            if not isinstance(value, int) or value < least:
                raise UserError(f"recipe.{name}={value}: must be an integer of at least {least}")
        _check_shares("splits", self.splits)
        for value, shares in (self.official or {}).items():
            _check_shares(f"official.{value}", shares)
        check_attributes(self.source.get("attributes") or ())

    def of_modality(self, modality: str) -> "Recipe":
        """The recipe with the modality that the inputs' headers say."""
        volume = replace(self.volume, range=None) if self.auto_range and modality != "CT" else self.volume
        return replace(self, modality=modality, volume=volume)

    def hasher(self, key_file: str | None) -> tuple[Hasher, str]:
        """Return the hasher of names, and where its key is from. Raises UserError."""
        key, key_from = load_key(self.secret, key_file)
        return Hasher(key, self.archive), key_from

    @property
    def reading(self) -> ReadSettings:
        """The settings for reading an input."""
        modality = self.modality or ("CT" if self.dims == 3 else "")  # of volumes, until the listing tells it
        volume = self.volume
        if self.slices:
            volume = replace(volume, range=self.slices.range_of(modality, volume.range))
        return ReadSettings(self.dims, modality, self.bits, self.burned_in, volume, self.colour)

    def make_source(self) -> Source:
        """An instance of ``_target_``. Raises UserError if there is no such class, or its arguments do not fit."""
        factory, arguments = self._source_class(), self._arguments()
        with at("recipe"):
            source = factory(**arguments)
        _check_labels(source.label_names)
        for names in classes_of(source).values():
            _check_labels(names)
        _check_labels(channels := channels_of(source), "channel")
        if channels and self.slices:
            raise UserError(f"recipe.slices={self.slices.plane} of several channels ({', '.join(channels)}): slices "
                            "have one; whole volumes have all, recipe.slices=null")  # fmt: skip
        if channels and self.volume.clip is not None:
            raise UserError(f"recipe.volume.clip={list(self.volume.clip)} of several channels ({', '.join(channels)}), "
                            "which have ranges of their own: use null")  # fmt: skip
        return source

    @property
    def listing(self) -> list[Any]:
        """What decides, beside the files, what is found of each."""
        return [self.source["_target_"], str(self.source.get("images")), self.source.get("structures") is not None]

    def inspector(self) -> "tuple[Path, Inspector] | None":
        """The folder whose files several tasks may inspect, and what inspects one; None if the source cannot be
        divided. Raises UserError if there is no such folder."""
        arguments, divided = self._arguments(), getattr(self._source_class(), "inspector", None)
        inspect = divided(arguments) if divided else None
        return (folder_at(arguments["images"]), inspect) if inspect else None

    @property
    def source_module(self) -> str:
        return self._source_class().__module__

    def folders(self) -> list[Path]:
        """The folders that the source's arguments name, or that hold the files which they name: as they are named, and
        without links."""
        values = (self.source.get(name) for name in path_arguments(self._source_class()))
        named = [each for value in values if value for each in ([value] if isinstance(value, str) else value)]
        paths = [locate(str(each), "recipe.images") for each in named]
        paths = [path if path.is_dir() else path.parent for path in paths]
        return [*map(resolve_links, paths), *(path.absolute() for path in paths)]

    def check(self) -> None:
        """Raises UserError for what :meth:`make_source` refuses before it reads anything."""
        arguments = self._arguments()
        if "images" in arguments and arguments["images"] is None:  # it makes them itself
            self.make_source()

    def _arguments(self) -> dict[str, Any]:
        """Return the source's arguments. Raises UserError if it does not take them."""
        others = {"_target_"} if self._reads_lists else {"_target_", "lists"}
        arguments = {key: value for key, value in self.source.items() if key not in others}
        try:
            inspect.signature(self._source_class()).bind(**arguments)
        except TypeError as error:
            raise UserError(f"the recipe does not fit its source {self.source['_target_']}: {error}") from error
        return arguments

    def identity(self, hasher: Hasher) -> dict[str, Any]:
        """The part of a recipe that determines its dataset, ready for JSON.

        It is published with the dataset, so it omits arguments that the source annotates as paths; published lists
        are named by their checksums. Raises UserError if there is no such source, or no such list.
        """
        common = {name: value for name, value in dataclasses.asdict(self).items() if name in self.key_names()}
        try:
            paths = path_arguments(self._source_class()).keys()
        except NameError as error:
            raise UserError(
                f"recipe._target_: the annotations of {self._source_class().__name__} cannot be resolved ({error}); "
                "they mark which arguments are paths, so import their types at run time"
            ) from error
        newer = {"structures"} if self.source.get("structures") is None else set()  # older datasets do not have it
        source = {key: value for key, value in self.source.items() if key not in paths | newer | {"lists"}}
        if self.listed:
            with at("recipe"):
                source["lists"] = checksums(split_lists(self.source["lists"]))
        colour = {} if self.colour == GREY else {"colour": self.colour}
        return common | source | colour | {"hash_key": hasher.key_id, "shard_size": self.shard_size or STANDARD}

    @property
    def listed(self) -> bool:
        return self.source.get("lists") is not None

    @property
    def split_of_patients(self) -> dict[str, str] | None:
        """The splits of all patients in ``recipe.lists``; None without, and if the source reads lists of images itself.
        Raises UserError, as :func:`splits_of_patients`."""
        return None if self._reads_lists or not self.listed else splits_of_patients(split_lists(self.source["lists"]))

    @property
    def _reads_lists(self) -> bool:
        return getattr(self._source_class(), "takes_lists", False)

    def _source_class(self) -> type[Source]:
        target = str(self.source["_target_"])
        source = imported("recipe._target_", target)
        if not (inspect.isclass(source) and callable(getattr(source, "records", None))):  # recipes are untrusted
            raise UserError(f"recipe._target_={target} is not a source: name a class with the method records")
        return cast(type[Source], source)


def classes_of(source: Source) -> Mapping[str, Sequence[str]]:
    """The class names of each label that is the number of a class."""
    return getattr(source, "classes", {})


def channels_of(source: Source) -> Sequence[str]:
    """The names of the samples' channels, if each has a range of its own; empty of samples of one range."""
    return getattr(source, "channels", ())


def _check_shares(name: str, shares: Any) -> None:
    numbers = isinstance(shares, Mapping) and all(isinstance(n, int | float) and n >= 0 for n in shares.values())
    if not numbers or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"recipe.{name}={typed(shares)}: give shares that add up to 1 (0 leaves a split out)")


def _check_labels(names: Sequence[str], what: str = "label") -> None:
    for label, count in Counter(names).items():
        if count > 1:
            raise UserError(f"two {what}s are named {label[:60]!r}: rename one")
        if not is_shown(label):
            raise UserError(f"a {what} is named {label[:60]!r}: use at most {LONGEST_TEXT} printable letters")


def identity_hash(identity: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
