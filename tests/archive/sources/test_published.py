"""What published lists do to their readers."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from archive import ingest
from archive.sources import miniatures_3d
from upath import UPath

from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.archive.plan import plan_shards
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import in_threads, with_size
from dira_scale.base.errors import UserError
from dira_scale.base.storage.tables import read_table


def test_a_packed_table_that_ends_early_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(b"file,label\na,1\n" * 1000)
    for number, content in enumerate((whole[:-20], b"file,label\na,1\n", whole[:40] + b"x" + whole[41:])):
        path = tmp_path / f"{number}.csv.gz"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{number}\.csv\.gz: not a whole gzip file \(.*\): download it again"):
            list(read_table(path, ["file"]))
    (tmp_path / "whole.csv.gz").write_bytes(gzip.compress(b"file;label\na;1\n"))
    assert [row.cells for row in read_table(tmp_path / "whole.csv.gz", ["file"])] == [{"file": "a", "label": "1"}]


def test_records_keep_their_order_over_threads() -> None:
    names = [str(n) for n in range(1000)]
    assert [record.name for record in in_threads(lambda name: SourceRecord(name, Path(name)), iter(names), 3)] == names


def test_what_comes_twice_is_taken_once(tmp_path: Path) -> None:
    """A copied folder, a line written twice: the first counts, the others have a reason."""
    met = "a duplicate of this name"
    scans = miniatures_3d.lidc_idri(tmp_path / "lidc")
    for uid in scans:
        miniatures_3d.readings(tmp_path / "lidc" / f"{uid}.xml", uid, [[]])
    shutil.copytree(tmp_path / "lidc" / "LIDC-IDRI-0001", tmp_path / "lidc" / "LIDC-IDRI-0009")
    again = {f"LIDC-IDRI-0009/1.2.{n}/{uid}/1-01.dcm": met for n, uid in enumerate(scans)}
    assert_taken_once(ingest.recipe("lidc_idri", images=str(tmp_path / "lidc")), list(scans), again)

    made = miniatures_3d.msd(tmp_path / "msd")
    content = json.loads((tmp_path / "msd" / "dataset.json").read_text())
    content["training"] += [content["training"][0], content["training"][0]]
    content["test"].append("./imagesTs/prostate_01.nii.gz")
    shutil.copy(tmp_path / "msd/imagesTr/prostate_01.nii.gz", tmp_path / "msd/imagesTs/prostate_01.nii.gz")
    (tmp_path / "msd" / "dataset.json").write_text(json.dumps(content))
    again = {f"imagesTr/prostate_01.nii.gz{n}": met for n in ("", " 2")} | {"imagesTs/prostate_01.nii.gz": met}
    assert_taken_once(ingest.recipe("msd", images=str(tmp_path / "msd")), list(made), again)


def assert_taken_once(config: dict, taken: list[str], again: dict[str, str]) -> None:
    recipe = Recipe.from_config(config)
    planned = plan_shards(recipe.make_source().records(2), recipe, Hasher(PUBLIC_KEY))  # which stops at two of one name
    reported = {item.record.name: item.record.rejected for item in planned}
    assert {name for name, reason in reported.items() if reason is None} == set(taken)
    assert {name: reason for name, reason in reported.items() if reason and "a duplicate" in reason} == again


def test_a_store_that_fails_to_tell_a_size_stops_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    location = UPath("memory://sizes/a.nii")
    location.write_bytes(b"12345")
    record = SourceRecord("a", location)  # type: ignore[arg-type]
    assert with_size(record).size == 5
    gone = SourceRecord("b", location.with_name("b.nii"))  # type: ignore[arg-type]
    assert with_size(gone).rejected == "the file cannot be read (FileNotFoundError)"
    monkeypatch.setattr(type(location.fs), "info", lambda *_, **__: (_ for _ in ()).throw(OSError("connection lost")))
    with pytest.raises(OSError, match="connection lost"):
        with_size(record)
