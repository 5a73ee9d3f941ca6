"""Assign patients to splits by a keyed hash, so that they keep their split when a dataset grows; and the size of
shards."""

import pickle
import sqlite3
from collections.abc import Mapping
from itertools import accumulate

from dira_scale.archive.deidentify import Hasher
from dira_scale.archive.recipe import STANDARD, Recipe
from dira_scale.archive.sources.split_lists import SPLITS
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest.checks import SPLIT

MANY = 10**6  # inputs; of more a shard has more, as an open or a fetch of a small one costs as much as of a large one
LARGEST = 10**9  # bytes of inputs that then become a shard
LANES = 4096  # and at least so many shards, for a large run's lanes to read side by side, and for machines to write


def draw_splits(table: sqlite3.Connection, recipe: Recipe, hasher: Hasher) -> list[str]:
    """Set ``item.split`` for all drawn items in a plan's ``table``; return the splits in the recipe's order.

    A patient's position in [0, 1) depends only on key and patient. Each value of the source's split column (``hint``)
    is divided separately. With ``recipe.lists`` the hint is the split, even if that cuts a patient.

    Raises:
        UserError: a patient in two splits, a hint that is not in ``recipe.official``, or a split's name that cannot be
            part of a file name.
    """
    table.create_function("place", 1, lambda patient: hasher.fraction("split", patient), deterministic=True)
    table.executescript("""
        CREATE TABLE person AS
            SELECT hint, patient, place(patient) AS place, NULL AS split
            FROM (SELECT DISTINCT hint, patient FROM item WHERE drawn);
        CREATE INDEX person_place ON person (hint, place);
        CREATE INDEX person_patient ON person (patient, hint);
    """)
    hints = [hint for (hint,) in table.execute("SELECT DISTINCT hint FROM person")]
    for hint in sorted(hints, key=str):
        _draw(table, hint, _shares(hint, recipe))
    table.execute(
        "UPDATE item SET split = (SELECT split FROM person WHERE person.patient = item.patient "
        "AND person.hint IS item.hint) WHERE drawn"
    )
    if not recipe.listed:
        _refuse_cut(table)
    table.execute("DROP TABLE person")
    drawn = {split for (split,) in table.execute("SELECT DISTINCT split FROM item WHERE drawn")}
    shares = [recipe.splits, *(recipe.official or {}).values()]
    names = [name for split_shares in shares for name, share in split_shares.items() if share > 0]
    names = list(dict.fromkeys(SPLITS if recipe.listed else names))
    splits = [split for split in dict.fromkeys([*names, *sorted(drawn)]) if split in drawn] or names[:1]
    for split in splits:
        if not SPLIT.fullmatch(split):
            raise UserError(
                f"invalid split name '{split}': it becomes part of file names, so use letters, digits, _ and - in "
                "the split column, recipe.splits and recipe.official"
            )
    return splits


def _shares(hint: str | None, recipe: Recipe) -> Mapping[str, float]:
    if hint is None:
        return recipe.splits
    if recipe.official is None or recipe.listed:
        return {hint: 1.0}
    if hint not in recipe.official:
        raise UserError(f"the split column has '{hint}': recipe.official has only {', '.join(recipe.official)}")
    return recipe.official[hint]


def _draw(table: sqlite3.Connection, hint: str | None, shares: Mapping[str, float]) -> None:
    """Set each patient's split; in tiny datasets, fill empty splits from those with two or more patients, or later."""
    names = [name for name, share in shares.items() if share > 0]
    edges = [0.0, *accumulate(shares[name] for name in names)]
    edges[-1] = 1.0
    for name, low, high in zip(names, edges[:-1], edges[1:], strict=True):
        table.execute(
            "UPDATE person SET split = ? WHERE hint IS ? AND place >= ? AND place < ?", [name, hint, low, high]
        )
    for number, name in enumerate(names):
        members = dict(table.execute("SELECT split, count(*) FROM person WHERE hint IS ? GROUP BY split", [hint]))
        if name in members:
            continue
        givers = [n for n in names if members.get(n, 0) > 1 or n in names[number + 1 :]]
        middle = edges[number + 1] - shares[name] / 2
        table.execute(
            "UPDATE person SET split = ? WHERE rowid = (SELECT rowid FROM person WHERE hint IS ? "
            f"AND split IN ({', '.join('?' * len(givers))}) ORDER BY abs(place - ?), place, patient LIMIT 1)",
            [name, hint, *givers, middle],
        )


def _refuse_cut(table: sqlite3.Connection) -> None:
    cut = table.execute("SELECT patient FROM person GROUP BY patient HAVING count(DISTINCT split) > 1 LIMIT 1")
    for (patient,) in cut.fetchall():
        there, here = table.execute(
            "SELECT split, content FROM (SELECT split, min(number) AS number FROM item WHERE patient = ? AND drawn "
            "GROUP BY split) JOIN record USING (number) ORDER BY number LIMIT 2",
            [patient],
        )
        raise UserError(
            f"patient {patient} (hash) would be in two splits: {pickle.loads(there[1]).name} is in {there[0]}, "
            f"{pickle.loads(here[1]).name} in {here[0]}; correct the split column, or leave it out "
            "(recipe.columns.split=null)"
        )


def samples_a_shard(typed: int | None, inputs: int, size: float) -> int:
    """Return how many samples a shard has: as ``typed``, or of so many listed inputs of a mean ``size`` in bytes, 0 if
    nobody knows it."""
    if typed or inputs <= MANY or not size:
        return typed or STANDARD
    return max(STANDARD, min(int(LARGEST / size), inputs // LANES))
