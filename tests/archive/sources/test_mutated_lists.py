"""Lists of others are data only: whatever is in them gives records, or one clear line that quotes no patient's name."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from archive.mutants.damage import damaged
from archive.sources.layouts import config, made

from dira_scale.archive.plan import Item
from dira_scale.archive.reading import QuarantinedError, read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import sample_of
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.base.errors import UserError

LISTS = {
    "chestxray14": ("*.csv", "*.txt"),
    "chexpert": ("*.csv",),
    "vindr_cxr": ("*/*.csv",),
    "rsna_pneumonia": ("*.csv", "*.json"),
    "siim_acr": ("*.csv",),
    "montgomery": ("*/*.txt",),
    "isic2019": ("*.csv",),
    "jsrt": ("*/*/*.txt", "*/*/*.TXT"),
    "luna16": ("*.csv", "*/*.mhd"),
    "luna16_candidates": ("*.csv",),
    "lidc_idri": ("*.xml",),
    "ct_rate": ("*/*.csv",),
    "msd": ("*.json",),
}
ACCIDENTS = ("an odd word", "an odd word", "an odd word", "a part missing", "a part twice")
NAME = "Quillfeather-7741903"


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """A few odd words, a part missing or twice."""
    for _ in range(rng.randint(1, 3)):
        _, content = damaged(content or b"\0", rng, ACCIDENTS)
    return content


def named(content: bytes, rng: random.Random) -> bytes:
    """A patient's name in place of a word."""
    begin, end = rng.choice(list(re.finditer(rb"[^\s,|<>=\"{}\[\]:]+", content))).span()
    return content[:begin] + NAME.encode() + content[end:]


@pytest.mark.parametrize("spoilings, namings", [(5, 2), pytest.param(500, 100, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", LISTS)
def test_mutated_lists_give_records_or_one_line(name: str, spoilings: int, namings: int, tmp_path: Path) -> None:
    """Reasons go out with the dataset: a patient's name in any cell, or in the name of a file, stays where it is."""
    made(name, tmp_path)
    recipe, rng, reasons = Recipe.from_config(config(name, tmp_path)), random.Random(name), set[str]()
    lists = sorted(path for form in LISTS[name] for path in tmp_path.glob(form))
    assert lists and list(recipe.make_source().records(1))
    for path in sorted(path for path in tmp_path.rglob("*.*") if path.is_file() and path not in lists)[:3]:
        path.with_name(f"{NAME}_0{path.suffix}").write_bytes(path.read_bytes())

    def listed(number: int, change: Callable[[bytes, random.Random], bytes], check: Callable[..., None]) -> None:
        path = lists[number % len(lists)]
        content = path.read_bytes()
        path.write_bytes(change(content, rng))
        try:
            for record in recipe.make_source().records(1):
                assert record.name and (record.rejected is None or "\n" not in record.rejected)
                check(record)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 800
        path.write_bytes(content)

    def make(record: SourceRecord) -> None:
        try:
            sample_of(item := Item("key", "patient", "study", "split", record), read_input(item, recipe), recipe)
        except QuarantinedError as rejected:
            reasons.add(rejected.reason)
        except OSError:  # a file that is not there now stops the run, on the screen
            pass

    listed(0, lambda content, _: content, make)
    for number in range(spoilings):
        listed(number, spoilt, lambda _: None)
    for number in range(namings):
        listed(number, named, make)
    assert reasons
    for reason in reasons:
        assert not any(part.lower() in reason.lower() for part in NAME.split("-"))
        assert not any(path.name in reason for path in tmp_path.rglob("*.*") if path.name != "dataset.json")
