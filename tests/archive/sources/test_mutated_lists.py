"""Lists of others are data only: whatever is in them gives records, or one clear line."""

import random
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive.sources.layouts import config, made

from dira_scale.archive.plan import Item
from dira_scale.archive.reading import QuarantinedError
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import make_sample
from dira_scale.errors import UserError

ODD = (
    b"",
    b",",
    b"\n",
    b'"',
    b"\0",
    b"\xff",
    b"nan",
    b"-1e999",
    b"99999999999999999999",
    b"../../x",
    b"<",
    b"{",
    b"[]",
)
LISTS = {
    "chestxray14": ("*.csv", "*.txt"),
    "chexpert": ("*.csv",),
    "siim_acr": ("*.csv",),
    "montgomery": ("*/*.txt",),
    "jsrt": ("*/*/*.txt", "*/*/*.TXT"),
    "luna16": ("*.csv", "*/*.mhd"),
    "luna16_candidates": ("*.csv",),
    "lidc_idri": ("*.xml",),
    "msd": ("*.json",),
}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A few bytes exchanged for odd ones, a part cut out or doubled."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(changed) + 1), rng.randint(0, 9)
        kind = rng.random()
        if kind < 0.6:
            changed[at : at + length] = rng.choice(ODD)
        elif kind < 0.8:
            changed[at : at + 20 * length] = b""
        else:
            changed[at:at] = changed[at : at + 30 * length]
    return bytes(changed)


def prepared(name: str, root: Path, ingest: SimpleNamespace) -> tuple[Recipe, list[Path]]:
    """The recipe of a miniature in ``root``, and its lists."""
    made(name, root, ingest)
    return Recipe.from_config(config(name, root, ingest)), sorted(p for form in LISTS[name] for p in root.glob(form))


@pytest.mark.parametrize("count", [12, pytest.param(500, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", LISTS)
def test_mutated_lists_give_records_or_one_line(
    name: str, count: int, tmp_path: Path, ingest: SimpleNamespace
) -> None:  # fmt: skip
    recipe, files = prepared(name, tmp_path, ingest)
    assert files and list(recipe.make_source().records(1))
    rng = random.Random(name)
    for number in range(count):
        path = files[number % len(files)]
        content = path.read_bytes()
        path.write_bytes(mutated(content, rng))
        try:
            for record in recipe.make_source().records(1):
                assert record.name and (record.rejected is None or "\n" not in record.rejected)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 800
        path.write_bytes(content)


NAME = "Quillfeather-7741903"


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", LISTS)
def test_no_reason_quotes_a_list_or_a_name(name: str, count: int, tmp_path: Path, ingest: SimpleNamespace) -> None:
    """Reasons go out with the dataset: a patient's name in any cell, or in the name of a file, stays where it is."""
    (recipe, lists), reasons = prepared(name, tmp_path, ingest), set[str]()
    for path in sorted(path for path in tmp_path.rglob("*.*") if path.is_file() and path not in lists)[:3]:
        path.with_name(f"{NAME}_0{path.suffix}").write_bytes(path.read_bytes())
    rng = random.Random(name)
    for number in range(count):
        path = lists[number % len(lists)]
        content = path.read_bytes()
        cells = list(re.finditer(rb"[^\s,|<>=\"{}\[\]:]+", content))
        begin, end = rng.choice(cells).span() if number else (0, 0)
        path.write_bytes(content[:begin] + (NAME.encode() if number else b"") + content[end:])
        try:
            for record in recipe.make_source().records(1):
                try:
                    make_sample(Item("key", "patient", "study", "split", record), recipe)
                except QuarantinedError as rejected:
                    reasons.add(rejected.reason)
                except OSError:  # a file that is not there now stops the run, on the screen
                    pass
        except UserError:
            pass
        path.write_bytes(content)
    assert reasons
    for reason in reasons:
        assert not any(part.lower() in reason.lower() for part in NAME.split("-"))
        assert not any(path.name in reason for path in tmp_path.rglob("*.*") if path.name != "dataset.json")
