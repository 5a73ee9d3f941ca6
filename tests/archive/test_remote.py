"""Images and tables in a store, datasets in a store: an S3 server as a process of its own, and ``file://``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3
import s3fs
from archive import ingest

from dira_scale.archive import writer
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard.convert import convert
from dira_scale.shard.repair import repair
from dira_scale.shard.survey import survey_and_print


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Bucket]:
    with s3.bucket() as there:
        yield there


@pytest.fixture
def bucket(server: s3.Bucket) -> s3.Bucket:
    if keys := server.keys(""):
        server.client.delete_objects(Bucket=s3.NAME, Delete={"Objects": [{"Key": key} for key in keys]})
    return server


@pytest.fixture
def png_folder(tmp_path: Path) -> Path:
    """Few images, as each is several requests."""
    return Path(ingest.pngs(tmp_path / "source", 8))


def stored(bucket: s3.Bucket, prefix: str) -> dict[str, bytes]:
    return {key.removeprefix(prefix): bucket.content(key) for key in bucket.keys(prefix)}


def put(bucket: s3.Bucket, folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.client.upload_file(str(path), s3.NAME, f"source/{path.relative_to(folder).as_posix()}")


def source_in(bucket: s3.Bucket, folder: Path) -> dict:
    return ingest.source_of(folder) | {
        "images": f"{bucket.url}/source/images",
        "labels": f"{bucket.url}/source/labels.csv",
        "boxes": f"{bucket.url}/source/boxes.csv",
    }


def test_from_a_store_to_a_store_is_what_it_is_from_disk_to_disk(
    bucket: s3.Bucket, png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ingest.dicom(png_folder / "images" / "sub" / "no_row.dcm", ingest.picture(0).astype("uint16"))
    (png_folder / "images" / "im05.png").write_bytes(b"\x89PNG")
    (png_folder / "images" / "im06.png").unlink()
    (png_folder / "images" / ".hidden").write_text("x")
    ingest.csv(png_folder / "boxes.csv", [{"file": "im01.png", "label": "m", "y": 1, "x": 2, "h": 3, "w": 4}])
    put(bucket, png_folder)
    here = ingest.recipe("folder", shard_size=3, **ingest.source_of(png_folder), boxes=str(png_folder / "boxes.csv"))
    there = ingest.recipe("folder", shard_size=3, **source_in(bucket, png_folder))
    convert(here, tmp_path / "disk", workers=1)
    convert(there, f"{bucket.url}/sets/one", workers=1, share="1/2")
    assert any(key.startswith("sets/one/.partial/") for key in bucket.keys("sets/")) and not (tmp_path / "s3:").exists()
    convert(there, f"{bucket.url}/sets/one", workers=2)
    whole = ingest.contents(tmp_path / "disk")
    assert stored(bucket, "sets/one/") == whole
    assert (tmp_path / "one.rejected.csv").read_bytes() == (tmp_path / "disk.rejected.csv").read_bytes()

    near, far = ShardedDataset.open(tmp_path / "disk"), ShardedDataset.open(f"{bucket.url}/sets/one")
    assert near.hash == far.hash
    for row in range(near.table.num_rows):
        assert near.read(row) == far.read(row) and near.read_mask(row) == far.read_mask(row)

    found = survey_and_print(there, 1, None, 4)
    assert found.rejected.total() == 1 and len(found.trials) == 4
    shard = next(name for name in whole if name.endswith(".tar"))
    bucket.client.put_object(Bucket=s3.NAME, Key=f"sets/one/{shard}", Body=b"x")
    assert repair(there, f"{bucket.url}/sets/one", workers=1) == [shard]
    assert stored(bucket, "sets/one/") == whole
    convert(there, f"file://{tmp_path}/file", workers=1)
    assert ingest.contents(tmp_path / "file") == whole


def test_a_slice_that_comes_late_does_no_harm(
    bucket: s3.Bucket, png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """It is at work when others join the dataset; then it goes on, and may even leave states behind."""
    monkeypatch.chdir(tmp_path)
    config, url = ingest.recipe("folder", images=str(png_folder / "images"), shard_size=3), f"{bucket.url}/late"
    plain, joined = writer.write_shard, []

    def slow(part: Path, *arguments: Any) -> Any:
        if not joined:  # on another machine: with temporary files of its own
            joined.append(part)
            (tmp_path / "other").mkdir()
            with monkeypatch.context() as there:
                there.setattr("tempfile.tempdir", str(tmp_path / "other"))
                convert(config, url, workers=1)
            joined.append({key: bucket.client.head_object(Bucket=s3.NAME, Key=key) for key in bucket.keys("late/")})
        return plain(part, *arguments)

    monkeypatch.setattr(writer, "write_shard", slow)
    convert(config, url, workers=1, share="2/3")
    printed = capsys.readouterr().out
    assert printed.count("is complete") == 1 and "still to do" not in printed
    assert bucket.keys("late/") == list(joined[1])  # no .partial either
    for key, head in joined[1].items():
        assert bucket.client.head_object(Bucket=s3.NAME, Key=key)["LastModified"] == head["LastModified"]
    for name in ("plan.json", "train-000000.json"):
        bucket.client.put_object(Bucket=s3.NAME, Key=f"late/.partial/{name}", Body=b'{"recipe": {}, "plan": "x"}')
    assert repair(config, url, workers=1) == []
    convert(config, url, workers=1)
    assert capsys.readouterr().out.count("is complete") == 1 and bucket.keys("late/") == list(joined[1])


@pytest.mark.parametrize(
    "location, words",
    [
        ("s3://nowhere/x", r"out=s3://nowhere/x|sharding to s3://nowhere/x failed"),
        ("nosuch://bucket/x", r"out=nosuch://bucket/x: .*pip install 'dira_scale\[store\]'"),
    ],
)
def test_a_store_that_is_not_there_is_one_error(bucket: s3.Bucket, png_folder: Path, location: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        convert(ingest.recipe("folder", **ingest.source_of(png_folder)), location, workers=1)
    with pytest.raises(UserError, match=r"recipe\.images"):
        convert(ingest.recipe("folder", images=location), png_folder / "out", workers=1)


def test_a_server_that_goes_away_stops_the_run_and_puts_nothing_into_quarantine(
    bucket: s3.Bucket, png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test of this file: it ends their server."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    put(bucket, png_folder)
    config = ingest.recipe("folder", images=f"{bucket.url}/source/images", shard_size=3)
    monkeypatch.setattr(
        "dira_scale.archive.claim.unfinished", lambda out, shards: (bucket.process.kill(), list(shards))[1]
    )
    with pytest.raises(UserError, match=r"sharding to .*/out failed .*finished shards are kept"):
        convert(config, tmp_path / "out", workers=1)
    assert not list((tmp_path / "out" / ".partial").glob("*-*.parquet"))
