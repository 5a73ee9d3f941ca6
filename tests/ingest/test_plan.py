"""Splits and places, as properties over many made-up sources."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dira_scale.errors import UserError
from dira_scale.ingest.deidentify import Hasher
from dira_scale.ingest.plan import plan
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sources.base import Record

HASHER = Hasher(b"a key of some length")


def make(**keys) -> Recipe:
    plain = {
        "name": "x", "modality": "CXR", "licence": "none", "secret": False, "official": None, "codec": "png",
        "splits": {"train": 0.8, "val": 0.1, "test": 0.1}, "quality": 95, "bits": 8, "max_side": None, "min_side": 1,
        "burned_in": "refuse", "shard_size": 5, "source": {},
    }  # fmt: skip
    return Recipe(**plain | keys)


def record(name: str, patient: str | None = None, split: str | None = None, **more: Any) -> Record:
    return Record(name, Path(name), patient=patient, split=split, **more)


def by_split(records: list[Record], recipe: Recipe) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for items in plan(records, recipe, HASHER).shards.values():
        for item in items:
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
    first = plan(records, recipe, HASHER)
    items = [item for shard in first.shards.values() for item in shard]
    assert sorted(item.record.name for item in items) == sorted(r.name for r in records)
    assert len({(item.patient, item.split) for item in items}) == len(set(patients))
    for name, shard in first.shards.items():
        assert 0 < len(shard) <= shard_size and {item.split for item in shard} == {name.rpartition("-")[0]}
    order.shuffle(records)
    assert plan(records, recipe, HASHER).hash == first.hash


def test_shares_of_many_patients() -> None:
    found = by_split([record(f"im{n}", f"p{n}") for n in range(4000)], make())
    assert abs(len(found["val"]) - 400) < 60 and abs(len(found["test"]) - 400) < 60  # 3 standard deviations


def test_patients_stay_where_they_are_when_a_dataset_grows() -> None:
    small = by_split([record(f"im{n}", f"p{n}") for n in range(300)], make())
    large = by_split([record(f"im{n}", f"p{n}") for n in range(900)], make())
    assert all(set(names) <= set(large[split]) for split, names in small.items())


@pytest.mark.parametrize("count", range(1, 12))
def test_no_split_of_a_small_dataset_is_empty(count: int) -> None:
    found = by_split([record(f"im{n}", f"p{n}") for n in range(count)], make())
    assert list(found) == ["train", "val", "test"][:count]


def test_a_split_with_share_nought_does_not_exist() -> None:
    found = by_split([record(f"im{n}") for n in range(50)], make(splits={"train": 0.9, "val": 0.1, "test": 0}))
    assert set(found) == {"train", "val"}


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
        plan(records, make(), HASHER)
    assert all(
        word in str(caught.value) for word in (HASHER("patient", "P1"), "a.png", "c.png", "recipe.columns.split")
    )
    assert "P1" not in str(caught.value).replace("a.png", "")


def test_an_unknown_official_split_names_the_known() -> None:
    with pytest.raises(UserError, match=r"'dev', recipe\.official knows only test"):
        plan([record("a", split="dev")], make(official={"test": {"test": 1.0}}), HASHER)


@pytest.mark.parametrize("name", ["train/val", "../x", "a b", "tr\u00e4in", "x\n", "."])
@pytest.mark.parametrize("keys", ["column", "splits", "official"])
def test_a_split_that_cannot_be_a_file_name_is_refused(name: str, keys: str) -> None:
    recipe = make(**{"column": {}, "splits": {"splits": {name: 1}}, "official": {"official": {"o": {name: 1}}}}[keys])
    hint = {"column": name, "splits": None, "official": "o"}[keys]
    with pytest.raises(UserError, match="a split cannot be called"):
        plan([record("a", split=hint)], recipe, HASHER)


def test_images_without_a_patient_are_their_own() -> None:
    items = [i for s in plan([record(f"im{n}") for n in range(20)], make(), HASHER).shards.values() for i in s]
    assert len({item.patient for item in items}) == 20


def test_images_of_one_study_stay_together_where_the_patient_is_not_known() -> None:
    records = [record(f"im{n}", study=f"S{n // 2}") for n in range(40)]
    items = plan(records, make(), HASHER).items
    assert len({item.patient for item in items}) == len({item.study for item in items}) == 20
    assert len({(item.patient, item.split) for item in items}) == 20


def test_an_image_without_a_patient_is_of_the_one_whom_its_study_names() -> None:
    records = [record(f"im{n}", f"P{n // 4}" if n % 4 == 1 else None, study=f"S{n // 4}") for n in range(40)]
    items = plan(records, make(), HASHER).items
    assert {item.patient for item in items} == {HASHER("patient", f"P{n}") for n in range(10)}
    assert len({(item.patient, item.split) for item in items}) == 10


def test_a_study_of_two_patients_names_nobody() -> None:
    records = [record("a", "P", study="1"), record("b", "Q", study="1"), record("c", study="1")]
    assert len({item.patient for item in plan(records, make(), HASHER).items}) == 3


def test_two_images_of_one_name_are_an_error() -> None:
    with pytest.raises(UserError, match="names two files im0"):
        plan([record("im0"), record("im1"), record("im0")], make(), HASHER)


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


def test_an_empty_source_is_an_error() -> None:
    with pytest.raises(UserError, match="no file at all"):
        plan([], make(), HASHER)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"codec": "jgp"}, "recipe.codec=jgp; did you mean 'jpg'"),
        ({"codec": "jpg", "bits": 16}, "recipe.bits=16 with recipe.codec=jpg"),
        ({"bits": 12}, "recipe.bits=12"),
        ({"splits": {"train": 0.8, "val": 0.1}}, "recipe.splits=.*add up to 1"),
        ({"official": {"a": {"train": 0.5}}}, "recipe.official.a=.*add up to 1"),
        ({"splits": None}, "recipe.splits=None: give shares"),
        ({"official": {"a": None}}, "recipe.official.a=None: give shares"),
        ({"burned_in": "yes"}, "recipe.burned_in=yes: use refuse or keep"),
        ({"shard_size": 0}, "recipe.shard_size=0: must be a whole number of at least 1"),
        ({"min_side": "small"}, "recipe.min_side=small: must be a whole number"),
        ({"source": {"attributes": ["name"]}}, "'name' cannot be kept"),
    ],
)
def test_an_impossible_recipe_is_refused(keys: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(**keys)


def test_identity_has_no_place_on_this_machine(tmp_path: Path, ingest: SimpleNamespace) -> None:
    """Not even as a hash: that of a public recipe could be guessed, and would make the same images another recipe."""
    recipe = Recipe.from_config(ingest.recipe("folder", images=str(tmp_path / "Doe")))
    other = Recipe.from_config(ingest.recipe("folder", images=str(tmp_path / "Roe"), labels="x.csv", max_side=64))
    first, second = recipe.identity(HASHER), other.identity(HASHER)
    assert {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)} == {"max_side"}
    plugin = {"_target_": "a.B", "root": "/data/Doe", "parts": ["x", "~/y"], "by_kind": {"cr": "sub/cr"}, "fold": 3}
    kept = make(source=plugin).identity(HASHER)
    assert "Doe" not in str(kept) and kept.keys() & plugin.keys() == {"_target_", "fold"}


def test_a_plan_is_the_same_wherever_the_images_lie() -> None:
    def made(folder: str, **more: Any) -> str:
        records = [Record(f"im{n}", Path(folder, f"im{n}"), mask=Path(folder, "m"), **more) for n in range(9)]
        return plan(records, make(), HASHER, ["a"]).hash

    assert made("/here", labels=(1.0,)) == made("/there", labels=(1.0,)) != made("/here", labels=(0.0,))
    assert made("/here", size=5) != made("/here", size=6)
    assert plan([record("x")], make(), HASHER, ["a"]).hash != plan([record("x")], make(), HASHER, ["b"]).hash


@pytest.mark.parametrize(
    "source, words",
    [
        ({"_target_": "dira_scale.nowhere.Source"}, "recipe._target_=dira_scale.nowhere.Source"),
        ({"_target_": "Folder"}, "recipe._target_=Folder"),
        ({"_target_": "dira_scale.ingest.sources.folder.Folder", "imagse": "x"}, "does not fit its source .*'images'"),
    ],
)
def test_a_source_that_cannot_be_made_is_named(source: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(source=source).make_source()
