"""Which image goes to which place of which shard: settled before the first one is decoded."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dira_scale.errors import UserError
from dira_scale.ingest.deidentify import Hasher, coarse
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sources.base import Record


@dataclass(frozen=True)
class Item:
    """A record with its hashes and its split."""

    key: str
    patient: str
    study: str
    split: str
    record: Record


@dataclass(frozen=True)
class Plan:
    """All shards by file name, in the manifest's order, and what their labels are called."""

    shards: dict[str, list[Item]]
    label_names: tuple[str, ...] = ()

    @property
    def items(self) -> list[Item]:
        return [item for items in self.shards.values() for item in items]

    @property
    def hash(self) -> str:
        """Identity of everything that was planned: a source that has changed since gives another one.

        It goes out with the dataset: names are in it as keyed hashes only, and places on this machine not at all.
        """
        digest = hashlib.sha256(json.dumps(self.label_names).encode())
        for item in self.items:
            r = item.record
            told = [r.labels, r.boxes, coarse(r.attributes), r.mask is not None, r.size, r.rejected]
            digest.update(json.dumps([item.key, item.patient, item.study, item.split, *told]).encode())
        return digest.hexdigest()


def plan(records: Iterable[Record], recipe: Recipe, hasher: Hasher, label_names: Sequence[str] = ()) -> Plan:
    """Hash, split and order the records; a split's samples stand in the order of their keys, hence shuffled.

    Only records that are not rejected take part in the splitting; the others stand in the first split.

    Raises:
        UserError: no record at all, or two of one name; a patient in two splits; a value of the split column that
            ``recipe.official`` does not know; a split whose name is no part of a file name.
    """
    named = {}
    for record in records:
        if record.name in named:
            raise UserError(f"the source names two files {record.name}: every image needs a name of its own")
        named[record.name] = record
    if not named:
        raise UserError("the source has no file at all: check recipe.images")
    people = defaultdict(set)
    for record in named.values():
        if record.patient and record.study:
            people[record.study].add(record.patient)
    patients = {name: hasher("patient", _who(record, people)) for name, record in named.items()}
    drawn = _splits([r for r in named.values() if r.rejected is None], patients, recipe, hasher)
    splits = [s for s in dict.fromkeys([*split_names(recipe), *sorted(set(drawn.values()))]) if s in drawn.values()]
    first = (splits or split_names(recipe))[0]
    for split in [*splits, first]:
        if not re.fullmatch("[A-Za-z0-9_-]+", split):
            raise UserError(
                f"a split cannot be called '{split}', as its files are named after it: use letters, digits, _ and - in "
                "the split column, recipe.splits and recipe.official"
            )
    items = [
        Item(
            key=hasher("key", name),
            patient=patients[name],
            # with the patient: some archives number each patient's studies from 1
            study=hasher("study", f"{patients[name]} {record.study or name}"),
            split=drawn.get(name, first),
            record=record,
        )
        for name, record in named.items()
    ]
    shards: dict[str, list[Item]] = {}
    for split in splits or [first]:
        chosen = sorted((item for item in items if item.split == split), key=lambda item: item.key)
        for start in range(0, len(chosen), recipe.shard_size):
            shards[f"{split}-{start // recipe.shard_size:06d}.tar"] = chosen[start : start + recipe.shard_size]
    return Plan(shards, tuple(label_names))


def _who(record: Record, people: Mapping[str, set[str]]) -> str:
    """Whom the image is of; without a name the one whom its study names (``people``), else all of the study is one."""
    if record.patient or not record.study:
        return record.patient or f"image {record.name}"
    known = people.get(record.study, set())
    return next(iter(known)) if len(known) == 1 else f"study {record.study}"


def split_names(recipe: Recipe) -> list[str]:
    """The splits that a recipe names, in its order."""
    tables = [recipe.splits, *(recipe.official or {}).values()]
    return list(dict.fromkeys(name for table in tables for name, share in table.items() if share > 0))


def _splits(
    records: list[Record], patients: Mapping[str, str], recipe: Recipe, hasher: Hasher
) -> dict[str, str]:  # fmt: skip
    """The split of every record by name. A patient's share of [0, 1) comes from the key and the patient alone, so
    patients stay where they are when a dataset grows."""
    groups: dict[str | None, set[str]] = defaultdict(set)
    for record in records:
        groups[record.split].add(patients[record.name])
    chosen: dict[tuple[str | None, str], str] = {}
    for hint in sorted(groups, key=str):
        shares = _shares(hint, recipe)
        chosen |= {(hint, patient): split for patient, split in _draw(groups[hint], shares, hasher).items()}
    splits: dict[str, str] = {}
    first: dict[str, Record] = {}
    for record in records:
        patient = patients[record.name]
        splits[record.name] = chosen[record.split, patient]
        other = first.setdefault(patient, record)
        if splits[other.name] != splits[record.name]:
            raise UserError(
                f"patient {patient} (hash) would be cut: {other.name} is in {splits[other.name]}, {record.name} in "
                f"{splits[record.name]}; correct the split column, or leave it out (recipe.columns.split=null)"
            )
    return splits


def _shares(hint: str | None, recipe: Recipe) -> Mapping[str, float]:
    if hint is None:
        return recipe.splits
    if recipe.official is None:
        return {hint: 1.0}
    if hint not in recipe.official:
        raise UserError(f"the split column says '{hint}', recipe.official knows only {', '.join(recipe.official)}")
    return recipe.official[hint]


def _draw(patients: set[str], shares: Mapping[str, float], hasher: Hasher) -> dict[str, str]:
    """Each patient's split; in a very small dataset no split stays empty while another has two, or comes later."""
    place = {patient: hasher.fraction("split", patient) for patient in patients}
    ordered = sorted(patients, key=lambda patient: (place[patient], patient))
    names = [name for name, share in shares.items() if share > 0]
    edges, total = [], 0.0
    for name in names:
        total += shares[name]
        edges.append(total)
    edges[-1] = 1.0
    split = {
        patient: next(n for n, edge in zip(names, edges, strict=True) if place[patient] < edge) for patient in ordered
    }
    for number, (name, edge) in enumerate(zip(names, edges, strict=True)):
        members = {n: [p for p in ordered if split[p] == n] for n in names}
        givers = [n for n in names if len(members[n]) > 1 or n in names[number + 1 :]]
        if not members[name] and (spare := [p for n in givers for p in members[n]]):
            split[min(spare, key=lambda p: abs(place[p] - (edge - shares[name] / 2)))] = name
    return split
