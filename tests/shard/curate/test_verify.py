"""Verify finds whatever was done to a finished dataset, names the sample, and finds nothing in a whole one."""

import errno
import json
import shutil
import tarfile
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive import ingest
from here import Here

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.verify import Damage, verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    source = ingest.source_of(ingest.pngs(folder / "source"))
    convert(ingest.recipe("folder", **source, shard_size=5), folder / "ds", workers=1)
    return folder / "ds"


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(whole, tmp_path / "ds"))


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_whole_dataset(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", f"path={dataset}", "workers=2"]) == 0
    assert "is intact" in capsys.readouterr().out


def test_a_flipped_bit_of_an_image_names_it(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = ShardedDataset.open(dataset).table.to_pylist()[3]
    flip(dataset / row["shard"], row["offset"] + row["size"] // 2)
    assert verify(dataset, 1) == [Damage(row["shard"], row["key"], "the image's checksum differs")]
    assert main(["verify", f"path={dataset}", "workers=1"]) == 1
    printed = capsys.readouterr().out
    assert f"{row['shard']}, sample {row['key']}" in printed and "damaged in 1 of its shards" in printed


def test_an_index_that_says_otherwise_than_the_manifest(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bit of the first row's checksum, which no opening can know to be wrong."""
    flip(dataset / "manifest.index", 40)
    assert ShardedDataset.open(dataset).checksums[0] != int(ShardedDataset.open(dataset).table["xxh3"][0].as_py(), 16)
    assert main(["verify", f"path={dataset}", "workers=1"]) == 1
    assert capsys.readouterr().out.endswith("\nmanifest.index: it says otherwise than the manifest: delete it\n")
    (dataset / "manifest.index").unlink()
    assert verify(dataset, 1) == []


def test_every_kind_of_a_damaged_shard(dataset: Path) -> None:
    shards = sorted(ShardedDataset.open(dataset).info.shards)
    assert len(shards) >= 3
    (dataset / shards[0]).unlink()
    (dataset / shards[1]).write_bytes((dataset / shards[1]).read_bytes()[:-1])
    with tarfile.open(dataset / shards[2]) as tar:
        sidecar = next(member for member in tar if member.name.endswith(".json"))
    flip(dataset / shards[2], sidecar.offset_data + 3)
    reasons = {damage.shard: damage.reason for damage in verify(dataset, 1)}
    assert reasons[shards[0]] == "missing" and "bytes instead of" in reasons[shards[1]]
    assert "checksum differs, but no image's does" in reasons[shards[2]] and len(reasons) == 3


def test_a_tar_whose_members_have_other_names(dataset: Path) -> None:
    """A flipped bit in a header would leave all payloads as they are."""
    row = ShardedDataset.open(dataset).table.to_pylist()[0]
    info = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(info | {"checksums": {}}))
    content = (dataset / row["shard"]).read_bytes()
    other = ("0" if row["key"][0] != "0" else "1") + row["key"][1:]
    header = bytearray(content[:512].replace(row["key"].encode(), other.encode()))
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (dataset / row["shard"]).write_bytes(bytes(header) + content[512:])
    assert [damage.reason for damage in verify(dataset, 1)] == ["the tar holds other samples than the manifest"]


def test_a_mask_of_another_sample(dataset: Path) -> None:
    """Both are whole, and each where the other's should be."""
    table = pq.read_table(dataset / "manifest.parquet")
    rows = table.to_pylist()
    one = next(row for row in rows if row["mask_size"])
    two = next(row for row in rows if row["mask_size"] and row["shard"] == one["shard"] and row is not one)
    for name in ("mask_offset", "mask_size"):
        one[name], two[name] = two[name], one[name]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), dataset / "manifest.parquet")
    reason = "its offset in the tar differs from the manifest's"
    assert verify(dataset, 1) == [Damage(row["shard"], row["key"], reason) for row in (one, two)]


def test_slices_and_a_stopped_call_add_up(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is intact is read once, what is damaged again; of another manifest nothing is known."""
    table, command = ShardedDataset.open(dataset).table.to_pylist(), ["verify", f"path={dataset}", "workers=1"]
    shards = sorted({row["shard"] for row in table}, key=[row["shard"] for row in table].index)
    row = next(row for row in table if row["shard"] == shards[1])
    flip(dataset / row["shard"], row["offset"] + row["size"] // 2)
    assert [main([*command, f"slice={n}/3"]) for n in (1, 2)] == [0, 1]
    printed = capsys.readouterr().out
    assert f"slice 1/3 of {dataset} is intact" in printed and f"{shards[1]}, sample {row['key']}" in printed
    notes, known = dataset.with_name("ds.verified"), {*shards[0::3], *shards[1::3]} - {shards[1]}
    assert known == {line for file in notes.glob("*.txt") for line in file.read_text().split()[1:]}
    (notes / "3-of-3.txt").write_text((notes / "1-of-3.txt").read_text() + shards[2])  # torn, before its line's end
    asked, submit = [], Here.submit
    monkeypatch.setattr(Here, "submit", lambda *words: asked.append(words[3]) or submit(*words))
    flip(dataset / row["shard"], row["offset"] + row["size"] // 2)
    assert main(command) == 0 and sorted(asked) == sorted({*shards} - known)
    assert f"{len(known)} of {len(shards)} shards were intact in earlier calls" in capsys.readouterr().out
    assert not notes.exists() and main([*command, "slice=1/3"]) == 0
    manifest = pq.read_table(dataset / "manifest.parquet")
    pq.write_table(manifest, dataset / "manifest.parquet", compression="gzip")
    asked.clear()
    assert main(command) == 0 and sorted(asked) == sorted(shards)
    assert main([*command, "slice=4/3"]) == 2 and "slice=4/3: give K/N" in capsys.readouterr().err


def test_where_nothing_can_be_noted_all_is_verified(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.with_name("ds.verified").touch()
    assert main(["verify", f"path={dataset}"]) == 2 and "is a file" in capsys.readouterr().err
    monkeypatch.setattr("dira_scale.shard.curate.notes.own", mock.Mock(side_effect=OSError(errno.EROFS, "Read-only")))
    dataset.with_name("ds.verified").unlink()
    assert main(["verify", f"path={dataset}", "workers=1"]) == 0
    printed = capsys.readouterr()
    assert "ds.verified cannot be written (Read-only)" in printed.err and "is intact" in printed.out


def test_a_command_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verfy", "path=x"]) == 2
    assert "no subcommand 'verfy'; did you mean 'verify'?" in capsys.readouterr().err
