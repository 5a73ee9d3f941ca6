"""Splits and places, as properties over many made-up sources; what a recipe's identity is made of."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from archive import ingest
from hypothesis import given, settings
from hypothesis import strategies as st

from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.settings import VolumeSettings
from dira_scale.archive.plan import TABLES, plan_shards
from dira_scale.archive.recipe import Recipe, identity_hash
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.splits import samples_a_shard
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.registry import REGISTERED
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import UserError

HASHER = Hasher(b"a key of some length")
# Written down before plans moved from lists into a table.
GOLDEN = "5731018264e46d89af6ea1f2b31907bba7912cab0bb0e7c2f567445facc018c4"
GOLDEN_ITEMS = "65d5997729b641ac9d7c3414794bad537662ab64d554a1c398a5aec0d549930e"
LAST = "test-000005.tar"


def make(**keys) -> Recipe:
    plain = {
        "name": "x", "modality": "CXR", "licence": "none", "secret": False, "archive": None, "official": None,
        "codec": "png", "slices": None,
        "splits": {"train": 0.8, "val": 0.1, "test": 0.1}, "quality": 95, "dims": 2, "bits": 8,
        "max_side": None, "min_side": 1,
        "burned_in": "refuse", "shard_size": 5, "source": {},
        "volume": VolumeSettings(None, None, None, "none", "resample"),
    }  # fmt: skip
    return Recipe(**plain | keys)


def record(name: str, patient: str | None = None, split: str | None = None, **more: Any) -> SourceRecord:
    return SourceRecord(name, Path(name), patient=patient, split=split, **more)


def by_split(records: list[SourceRecord], recipe: Recipe) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in plan_shards(records, recipe, HASHER):
        found.setdefault(item.split, []).append(item.record.name)
    return found


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.integers(0, 30), min_size=1, max_size=80),
    shard_size=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_each_image_once_patients_whole_order_of_no_matter(patients, shard_size, order) -> None:
    recipe = make(shard_size=shard_size)
    records = [record(f"im{n}", f"p{p}") for n, p in enumerate(patients)]
    first = plan_shards(records, recipe, HASHER)
    items = list(first)
    assert items == [item for shard in first.shards for item in first.items(shard)]
    keys = {item.key for item in items[1:]}
    assert first.differences([*keys, *keys, "x", "y"]) == (1, 2)
    assert sorted(item.record.name for item in items) == sorted(r.name for r in records)
    assert len({(item.patient, item.split) for item in items}) == len(set(patients))
    for name in first.shards:
        shard = first.items(name)
        assert 0 < len(shard) <= shard_size and {item.split for item in shard} == {name.rpartition("-")[0]}
    order.shuffle(records)
    assert plan_shards(records, recipe, HASHER).hash == first.hash


def test_a_plan_is_what_it_always_was() -> None:
    """Another hash would make every dataset that there is, finished or not, another one."""
    records = [
        SourceRecord(
            f"folder {n % 7}/im{n}.png",
            Path("x"),
            patient=f"official {n}" if n % 11 == 0 else None if n % 5 == 0 else f"P{n // 3}",
            study=None if n % 4 == 0 or n % 11 == 0 else f"S{n // 2}",
            labels=(float(n % 2), math.nan),
            boxes=(Box("mass", n, 1.5, 2, 3),) * (n % 3),
            mask=Path("m") if n % 6 == 0 else None,
            split=None if n % 11 else "official",
            attributes={"sex": "F"} if n % 2 else {},
            size=n,
            rejected="empty" if n % 13 == 0 else None,
        )
        for n in range(331)
    ]
    recipe = make(official={"official": {"val": 0.5, "test": 0.5}}, shard_size=7)
    made = plan_shards(records, recipe, HASHER, ["a", "b"])
    assert made.hash == GOLDEN
    items = [[item.key, item.patient, item.study, item.split, item.record.name] for item in made]
    assert hashlib.sha256(json.dumps(items).encode()).hexdigest() == GOLDEN_ITEMS
    assert list(made.shards)[-1] == LAST


def test_no_room_for_the_plan_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dira_scale.archive.plan.TABLES", TABLES.replace("cache_size = -8000", "max_page_count = 9"))
    with pytest.raises(UserError, match=r"the plan cannot be written .*database or disk is full.*set TMPDIR"):
        plan_shards([record(f"im{n}") for n in range(999)], make(), HASHER)


MEASURED = """
import resource
from pathlib import Path
from test_plan import HASHER, make
from dira_scale.archive.plan import plan_shards
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.imaging.volumes.series_index import Head, SeriesIndex
from dira_scale.base.storage.path_index import PathIndex
def peak(count):
    index = PathIndex()
    for n in range(count):
        index[Path(f"/archive/folder/im{n}.png")] = {"file": f"im{n}.png", "patient": f"P{n}", "nodule": "1"}
    series = SeriesIndex()
    for n in range(count):
        head = Head({"patient": f"P{n}"}, f"1.2.3.{n // 4}", f"1.2.{n}", None, ("64", "64"), ("",) * 5, False)
        series.add(Path(f"/archive/folder/im{n}.dcm"), 9, head)
    assert sum(len(found.paths) for found in series.series()) == count
    names = (path.name for path in index)
    records = (SourceRecord(name, Path("/archive", name), f"P{n}", labels=(1.0, 0.0)) for n, name in enumerate(names))
    made = plan_shards(records, make(shard_size=100), HASHER)
    assert len(made) == sum(1 for _ in made) == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak(2_000), peak(20_000))
"""


@pytest.mark.system
def test_ten_times_the_records_need_no_more_memory() -> None:
    paths = os.pathsep.join(str(Path(__file__).parents[n]) for n in range(3))
    ended = subprocess.run(
        [sys.executable, "-c", MEASURED], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
        timeout=200, check=True,
    )  # fmt: skip
    few, many = map(int, ended.stdout.split())
    assert many < 1.2 * few


def test_patients_stay_where_they_are_when_a_dataset_grows() -> None:
    small = by_split([record(f"im{n}", f"p{n}") for n in range(300)], make())
    large = by_split([record(f"im{n}", f"p{n}") for n in range(900)], make())
    assert all(set(names) <= set(large[split]) for split, names in small.items())


@pytest.mark.parametrize("count", range(1, 12))
def test_no_split_of_a_small_dataset_is_empty(count: int) -> None:
    found = by_split([record(f"im{n}", f"p{n}") for n in range(count)], make())
    assert list(found) == ["train", "val", "test"][:count]


def test_official_splits_are_kept_and_subdivided_by_patient() -> None:
    recipe = make(official={"train_val": {"train": 0.8, "val": 0.2}, "test": {"test": 1.0}})
    records = [record(f"im{n}", f"p{n // 3}", "test" if n >= 60 else "train_val") for n in range(90)]
    found = by_split(records, recipe)
    assert sorted(found["test"]) == sorted(f"im{n}" for n in range(60, 90))
    assert found["val"] and len(found["train"]) + len(found["val"]) == 60
    assert by_split([record("a", split="val"), record("b", split="x")], make()) == {"val": ["a"], "x": ["b"]}


def test_a_patient_in_two_official_splits_is_one_error_naming_hash_and_files() -> None:
    records = [record("a.png", "P1", "train"), record("b.png", "P2", "test"), record("c.png", "P1", "test")]
    with pytest.raises(UserError) as caught:
        plan_shards(records, make(), HASHER)
    assert all(
        word in str(caught.value) for word in (HASHER("patient", "P1"), "a.png", "c.png", "recipe.columns.split")
    )
    assert "P1" not in str(caught.value).replace("a.png", "")


def test_an_unknown_official_split_names_the_known() -> None:
    with pytest.raises(UserError, match=r"'dev': recipe\.official has only test"):
        plan_shards([record("a", split="dev")], make(official={"test": {"test": 1.0}}), HASHER)


@pytest.mark.parametrize("name", ["../x", "a b", "x\n"])
@pytest.mark.parametrize("keys", ["column", "splits", "official"])
def test_a_split_that_cannot_be_a_file_name_is_refused(name: str, keys: str) -> None:
    recipe = make(**{"column": {}, "splits": {"splits": {name: 1}}, "official": {"official": {"o": {name: 1}}}}[keys])
    hint = {"column": name, "splits": None, "official": "o"}[keys]
    with pytest.raises(UserError, match="invalid split name"):
        plan_shards([record("a", split=hint)], recipe, HASHER)


def test_images_of_one_study_stay_together_where_the_patient_is_not_known() -> None:
    records = [record(f"im{n}", study=f"S{n // 2}") for n in range(40)]
    items = list(plan_shards(records, make(), HASHER))
    assert len({item.patient for item in items}) == len({item.study for item in items}) == 20
    assert len({(item.patient, item.split) for item in items}) == 20


def test_an_image_without_a_patient_is_of_the_one_whom_its_study_names() -> None:
    records = [record(f"im{n}", f"P{n // 4}" if n % 4 == 1 else None, study=f"S{n // 4}") for n in range(40)]
    items = list(plan_shards(records, make(), HASHER))
    assert {item.patient for item in items} == {HASHER("patient", f"P{n}") for n in range(10)}
    assert len({(item.patient, item.split) for item in items}) == 10


def test_a_study_of_two_patients_names_nobody() -> None:
    records = [record("a", "P", study="1"), record("b", "Q", study="1"), record("c", study="1")]
    assert len({item.patient for item in plan_shards(records, make(), HASHER)}) == 3


def test_two_images_of_one_name_are_an_error() -> None:
    with pytest.raises(UserError, match="names two files im0"):
        plan_shards([record("im0"), record("im1"), record("im0")], make(), HASHER)


@pytest.mark.parametrize("official", [None, "x"])
def test_rejected_files_take_no_part_in_the_splitting(official: str | None) -> None:
    """Each of three good patients fills a split of its own, however many files are rejected."""
    good = [record(f"good{n}", split=official) for n in range(3)]
    bad = [record(f"bad{n}", rejected="no row") for n in range(50)]
    found = by_split([*bad, *good], make())
    names = [official] if official else ["train", "val", "test"]
    assert list(found) == names and set(found[names[0]]) >= {r.name for r in bad}
    assert {split: [n for n in found[split] if n.startswith("good")] for split in names} == by_split(good, make())
    assert list(by_split(bad, make())) == ["train"]


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"codec": "jgp"}, "recipe.codec=jgp; did you mean 'jpg'"),
        ({"codec": "jpg", "bits": 16}, "recipe.bits=16 with recipe.codec=jpg"),
        ({"dims": 3, "codec": "png"}, "recipe.codec=png with recipe.dims=3"),
        ({"codec": "b2nd"}, "recipe.codec=b2nd with recipe.dims=2"),
        (
            {"dims": 3, "codec": "npy", "modality": "MR", "volume": VolumeSettings(None, None, None, "body", "refuse")},
            "recipe.volume.crop=body: expected none for MR",
        ),
        ({"bits": 12}, "recipe.bits=12: expected 8 or 16"),
        ({"splits": {"train": 0.8, "val": 0.1}}, "recipe.splits=.*add up to 1"),
        ({"splits": None}, "recipe.splits=null: give shares"),
        ({"secret": "no"}, "recipe.secret=no: use true or false"),
        ({"shard_size": 0}, "recipe.shard_size=0: must be an integer of at least 1"),
        ({"source": {"attributes": ["name"]}}, "'name' cannot be kept"),
    ],
)
def test_an_impossible_recipe_is_refused(keys: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(**keys)


@pytest.mark.parametrize(
    ("typed", "inputs", "size", "samples"),
    [
        (None, 10**6, 2e5, 1000),
        (None, 10**8, 1e5, 10_000),  # of a gigabyte
        (None, 10**7, 1e5, 2441),  # 4,096 shards
        (None, 10**8, 8e6, 1000),  # never less than before
        (None, 10**8, 0, 1000),  # nobody knows
        (20, 10**8, 1e5, 20),
    ],
)
def test_shards_of_many_inputs_have_more_samples(typed: int | None, inputs: int, size: float, samples: int) -> None:
    assert samples_a_shard(typed, inputs, size) == samples


class Plugin:
    """A source of somebody's own."""

    def __init__(
        self, root: PathStr, scr_folder: "str | Path", parts: Sequence[Path], masks: PathStr | None, fold: str
    ):
        """Only ``fold`` among these is no place."""

    def records(self, workers: int) -> None: ...


@pytest.mark.parametrize("location", ["../Doe", None])
def test_what_a_source_annotates_as_a_place_is_no_part_of_the_identity(location: str | None) -> None:
    keys = {"root": location, "scr_folder": location, "parts": [location], "masks": location, "fold": "a/b"}
    kept = make(source={"_target_": f"{__name__}.Plugin", **keys}).identity(HASHER)
    assert kept.keys() & {"_target_", *keys} == {"_target_", "fold"} and "Doe" not in str(kept)


@pytest.mark.parametrize("location", ["Doe.csv", "s3://Doe"])
def test_places_are_no_part_of_the_identity(location: str) -> None:
    """Every argument of a source that is a place, however it is typed; what is none, as names of labels, is kept."""
    for name, keys in {
        "folder": {"images": location, "labels": location, "boxes": location},
        "jsrt": {"images": location, "masks": location},
        "phantom_cxr": {"folder": location},
        "phantom_ct": {"folder": location},
        "medmnist": {"images": location, "classes": ["Doe v1.5", "T2"]},
    }.items():
        identity = Recipe.from_config(ingest.recipe(name, **keys)).identity(HASHER)
        assert not any(location in (value if isinstance(value, list) else [value]) for value in identity.values())
        assert identity.keys().isdisjoint(keys.keys() - {"classes"}) and identity["_target_"] in REGISTERED
        assert name != "medmnist" or identity["classes"] == ["Doe v1.5", "T2"]


@pytest.mark.parametrize(
    "source, words",
    [
        ({"_target_": "torch.optim.nowhere.Source"}, "recipe._target_: torch.optim.nowhere.Source cannot be imported"),
        ({"_target_": "Foldr"}, "recipe._target_: Foldr is neither .* did you mean 'Folder'"),
        ({"_target_": "Folder", "imagse": "x"}, "does not fit its source .*'images'"),
    ],
)
def test_a_source_that_cannot_be_made_is_named(source: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(source=source).make_source()


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"spacing": (1.0, 1.0)}, r"spacing: expected \[z, y, x\] in mm, .*got \(1.0, 1.0\)"),
        ({"spacing": 2}, r"spacing: expected \[z, y, x\] in mm, .*got 2"),
        ({"range": 5}, r"range: expected \[low, high\] .*got 5"),
        ({"range": (1000, -1000)}, "range: expected"),
        ({"crop": "bdy"}, "crop: expected none or body; did you mean 'body'"),
        ({"crop": {"mask": -1}}, r"crop: expected {mask: 30}, voxels around the mask, or .*, got {'mask': -1}"),
        ({"crop": {"boxes": [32, 64]}}, r"crop: expected {mask: 30}.*, got {'boxes': \[32, 64\]}"),
        ({"crop": {"mask": 1, "boxes": [1, 1, 1]}}, "crop: expected {mask: 30}.*, got {'mask': 1, 'boxes': "),
    ],
)
def test_impossible_keys_of_volumes_are_refused(keys: dict, words: str) -> None:
    plain = {"spacing": None, "clip": None, "range": None, "crop": "none", "irregular": "refuse"}
    with pytest.raises(ArgumentError, match=words):
        VolumeSettings(**plain | keys)


def test_shares_of_many_patients() -> None:
    found = by_split([record(f"im{n}", f"p{n}") for n in range(4000)], make())
    assert abs(len(found["val"]) - 400) < 60 and abs(len(found["test"]) - 400) < 60  # 3 standard deviations


# The first 16 digits of each recipe's hash.
MODALITIES = {"msd": "MR", "volumes": "CT"}  # of those whose modality the inputs say
IDENTITIES = {
    "abdomenatlas": "036a755c6cb38094",
    "acdc": "c544b7fd8edc64b7",
    "bids": "d53f0ef7c4b129f1",
    "brats": "093929e928867a1b",
    "channels": "eb704296f420433c",
    "chestxray14": "7dff6abebbcd8381",
    "chestxray14_small": "95408b5e0cb72aac",
    "chexpert": "d14546261d117073",
    "cityscapes": "d067742c71f0a3e3",
    "class_folders": "c48de08e4b81b814",
    "ct_rate": "d5693f02237717c3",
    "eyepacs": "7ec87533ca7b2ca8",
    "flare": "d068ab9bff45c09f",
    "folder": "6f3d49e8ce28540e",
    "fomo300k": "8c5e7d91a835a6fe",
    "fomo60k": "3f71d127a2fcf296",
    "ham10000": "3e2da80688b4decb",
    "imagenet": "d71b3dcf018f2074",
    "isic2019": "82790f7b727d9781",
    "jsrt": "407e251955d792fa",
    "kits": "20345bef8fff0899",
    "kvasir": "f7495db1343af84c",
    "lidc_idri": "45bb1649f926bd73",
    "lidc_nodules": "4936e30b0ad8d13a",
    "lidc_vois": "ad31ff56d544e361",
    "lits": "faf60a2db922b3c2",
    "luna16": "55740a59b383a8a4",
    "luna16_candidates": "a2e3c3e8decbb8f8",
    "medmnist": "2c8c956321c0e93b",
    "mimic_cxr": "b8e0db575b9797f9",
    "montgomery": "4310d7b181789415",
    "msd": "1d65309f17dc5083",
    "openmind": "36033d367682406c",
    "padchest": "8a12616a02ea73d6",
    "patchcamelyon": "efcc11fd10fce189",
    "pe_cad": "e07b019b128278a9",
    "pediatric_pneumonia": "649f501407987378",
    "phantom_abdomen": "cc71e286d8e98e08",
    "phantom_ct": "519693690363c2fd",
    "phantom_cxr": "8058e0c7df7e3336",
    "phantom_small": "8722488420f0a2b2",
    "rsna_pneumonia": "7e6b180dbb827e7a",
    "sequences": "6d1a8bbd86b2ab04",
    "shenzhen": "8d4f4f4b2623d4b9",
    "shenzhen_original": "b629b7e23063eb73",
    "siim_acr": "60b8639ce196a3d9",
    "totalsegmentator": "4b4fa5f871d401d2",
    "vindr_cxr": "cae9228e0ea1578b",
    "volumes": "f9e00072b952cb26",
}


SHARDS = Path(__file__).parents[2] / "shards"
OWN = {"bids", "channels", "class_folders", "folder", "pe_cad", "sequences", "volumes"}


def test_every_recipe_is_pinned() -> None:
    assert {path.stem for path in (SHARDS / "recipe").glob("*.yaml")} == IDENTITIES.keys()


# One of each kind: images, volumes, lists, arrays, a recipe upon another, a modality that the inputs say.
KINDS = ("folder", "volumes", "chexpert", "medmnist", "chestxray14_small", "lidc_nodules", "msd", "phantom_cxr")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in KINDS else pytest.mark.system) for name in IDENTITIES]
)
def test_a_recipe_is_whole_and_its_identity_stays(name: str) -> None:
    """Else a dataset that was begun is refused by the command that began it, and a finished one by ``repair``."""
    keys = {"modality": MODALITIES[name]} if name in MODALITIES else {}
    for location in ("/data/here", "there/too.npz"):
        recipe = Recipe.from_config(ingest.recipe(name, images=location, **keys))
        assert identity_hash(recipe.identity(Hasher(PUBLIC_KEY, recipe.archive)))[:16] == IDENTITIES[name]
    assert recipe.name == name and (recipe.licence != "not stated" or name in OWN)
    assert recipe.secret == (name in OWN) and f"| `{name}` |" in (SHARDS / "README.md").read_text()
