"""``shard convert to=webdataset``: what sharding the source in that form would have made, whatever interrupts it."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from data.volumes import make, random_volumes
from PIL import Image
from shard.curate.test_verify import flip

from dira_scale.data.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.recode import own_names
from dira_scale.shard.curate.subset import Part, subset
from dira_scale.shard.curate.verify import verify

SIZES = [(90, 72), (64, 64), (80, 100), (50, 60)]  # of which the last never exceeds the 64 that others are shrunk to


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, ingest: SimpleNamespace) -> dict[str, Any]:
    """The keys of a recipe: 16 radiographs of 12 bits, with masks, boxes and labels of some; the last is damaged."""
    folder, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    rows, boxes = [], []
    for number in range(16):
        height, width = SIZES[number % 4]
        pixels = 16 * ingest.picture(number, height, width).astype(np.uint16) + rng.integers(0, 16, (height, width))
        name = f"{number:02d}.dcm"
        ingest.dicom(folder / "images" / name, pixels.astype(np.uint16), PixelSpacing=["0.139", "0.15"])
        row = {"file": name, "patient": f"p{number // 2}", "split": "val" if number < 4 else "train"}
        rows.append(row | {"sex": "F" if number % 3 else "M", "mass": number % 2 if number % 5 else "", "mask": ""})
        if number % 4 != 1:
            rows[-1]["mask"] = f"{number}.png"
            Image.fromarray((pixels > 2000).astype(np.uint8) * (1 + number % 3)).save(folder / f"{number}.png")
            boxes.append({"file": name, "label": "mass", "y": 3.5, "x": 7, "h": 21, "w": 30.25})
    (folder / "images" / "15.dcm").write_bytes(b"cut short")
    columns = {"file": "file", "patient": "patient", "split": "split", "mask": "mask"}
    tables = {
        name: str(ingest.csv(folder / f"{name}.csv", table)) for name, table in (("labels", rows), ("boxes", boxes))
    }
    return {"images": str(folder / "images"), "columns": columns, "attributes": ["sex"], "shard_size": 4, **tables}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ingest: SimpleNamespace, source: dict[str, Any]) -> Path:
    """The source's dataset in 16-bit PNG, for tests to read and none to write to."""
    return sharded(tmp_path_factory.mktemp("made") / "whole", ingest, source, codec="png", bits=16)


def sharded(out: Path, ingest: SimpleNamespace, source: dict[str, Any], **form: Any) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRA_SCALE_HASH_KEY", ingest.hash_key)
        convert(ingest.recipe("folder", **source, **form), out, workers=1)
    return out


def recode(path: Path | str, out: Path | str, *words: str, code: int = 0) -> ShardedDataset:
    assert main(["convert", f"path={path}", "to=webdataset", f"out={out}", "workers=1", *words]) == code
    return ShardedDataset.open(out)


def same_samples(ours: ShardedDataset, theirs: ShardedDataset) -> None:
    """Bytes of images and masks, and every column: lengths in pixels and mm within float32's rounding of twice."""
    exact = [
        name for name in ours.table.column_names if name not in ("spacing", "boxes", "labels", "offset", "mask_offset")
    ]
    assert ours.table.select(exact).equals(theirs.table.select(exact))
    np.testing.assert_array_equal(*(one.labels(np.arange(len(one.table))) for one in (ours, theirs)))
    for number, (a, b) in enumerate(zip(ours.table.to_pylist(), theirs.table.to_pylist(), strict=True)):
        assert ours.read(number) == theirs.read(number) and ours.read_mask(number) == theirs.read_mask(number)
        assert a["spacing"] == pytest.approx(b["spacing"], rel=2e-7)
        assert [box.pop("label") for box in a["boxes"]] == [box.pop("label") for box in b["boxes"]]
        assert a["boxes"] == [pytest.approx(box, rel=2e-7) for box in b["boxes"]]
    for name in ("name", "modality", "licence", "label_names", "counts", "quarantined", "codec"):
        assert getattr(ours.info, name) == getattr(theirs.info, name)
    assert list(ours.info.shards) == list(theirs.info.shards)
    tables = [pq.read_table(one.root / "quarantine.parquet") for one in (ours, theirs)]
    assert tables[0].equals(tables[1]) and tables[0].num_rows == 1


@pytest.mark.parametrize(
    "form",
    [
        {"codec": "jp2", "max_side": 64},
        {"codec": "png", "bits": 8, "max_side": 64},
        {"codec": "jpg", "bits": 8, "quality": 70, "max_side": 40},
        {"codec": "npy"},
    ],
    ids=str,
)
def test_it_is_what_sharding_the_source_in_that_form_makes(
    whole: Path, tmp_path: Path, ingest: SimpleNamespace, source: dict[str, Any], form: dict[str, Any]
) -> None:
    ours = recode(whole, tmp_path / "ours", *(f"{key}={value}" for key, value in form.items()))
    theirs = ShardedDataset.open(sharded(tmp_path / "theirs", ingest, source, **({"bits": 16} | form)))
    same_samples(ours, theirs)
    assert verify(ours.root, 1) == []
    croissants = [json.loads((one.root / "croissant.json").read_text()) for one in (ours, theirs)]
    assert croissants[0].keys() == croissants[1].keys() and croissants[0]["description"] == croissants[1]["description"]


def test_the_json_beside_an_image_says_what_the_manifest_says(whole: Path, tmp_path: Path) -> None:
    made = recode(whole, tmp_path / "out", "max_side=40", "bits=8")
    for row in made.table.to_pylist():
        with tarfile.open(made.root / row["shard"]) as tar:
            member = tar.extractfile(f"{row['key']}.json")
            assert member is not None
            reported = json.load(member)
        assert {name: reported[name] for name in ("low", "high", "patient", "study")} == {
            "low": 0, "high": 255, "patient": row["patient"], "study": row["study"],
        }  # fmt: skip
        assert reported["spacing"] == pytest.approx(row["spacing"]) and len(reported["boxes"]) == len(row["boxes"])
        assert all(box["y"] + box["h"] <= row["height"] for box in reported["boxes"])
        assert reported["attributes"] == dict(row["attributes"])


def test_what_does_not_change_is_copied_and_jpegs_are_not_encoded_twice(whole: Path, tmp_path: Path) -> None:
    small = recode(whole, tmp_path / "small", "max_side=64")
    origin = ShardedDataset.open(whole)
    fits = [max(row["height"], row["width"]) <= 64 for row in origin.table.to_pylist()]
    assert [small.read(n) == origin.read(n) for n in range(len(fits))] == fits and 0 < sum(fits) < len(fits)
    jpegs = recode(whole, tmp_path / "jpegs", "codec=jpg", "bits=8", "quality=60")
    again = recode(jpegs.root, tmp_path / "again", "codec=jpg", "max_side=64")
    assert [again.read(n) == jpegs.read(n) for n in range(len(fits))] == fits
    worse = recode(jpegs.root, tmp_path / "worse", "quality=20")
    assert all(len(worse.read(n)) < len(jpegs.read(n)) for n in range(len(fits)))


def test_it_says_what_it_was_made_from(whole: Path, tmp_path: Path) -> None:
    origin = ShardedDataset.open(whole)
    first = recode(whole, tmp_path / "first", "codec=jp2")
    came = {
        "dataset": origin.hash, "recipe_hash": origin.info.recipe_hash, "codec": ["png"], "bits": [16],
        "largest": [90, 100],
    }  # fmt: skip
    assert first.info.recipe == origin.info.recipe | {"codec": "jp2", "converted_from": came}
    assert first.info.recipe_hash != origin.info.recipe_hash
    second = recode(first.root, tmp_path / "second", "codec=jpg", "bits=8", "max_side=40")
    kept = {name: second.info.recipe[name] for name in ("codec", "bits", "max_side", "quality", "hash_key")}
    assert kept == {
        "codec": "jpg",
        "bits": 8,
        "max_side": 40,
        "quality": 95,
        "hash_key": origin.info.recipe["hash_key"],
    }
    assert second.info.recipe["converted_from"]["dataset"] == first.hash
    assert second.info.recipe["converted_from"]["converted_from"] == came


def test_workers_do_not_matter(whole: Path, tmp_path: Path, ingest: SimpleNamespace) -> None:
    recode(whole, tmp_path / "one", "codec=jp2")
    recode(whole, tmp_path / "two", "codec=jp2", "workers=2")
    assert ingest.contents(tmp_path / "one") == ingest.contents(tmp_path / "two")


KILLED = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from dira_scale.archive import writer
from dira_scale.shard.curate.recode import recode
from dira_scale.shard.curate.recode_sample import Form

writer.worker_pool = lambda n, *_: ThreadPoolExecutor(n)
plain, form = Path.replace, Form("jp2", 64, None, None)
recode(sys.argv[1], "warm", form, 1)  # what each process would import

def dies(moment, count):
    def replace(written, final):
        nonlocal count
        count -= 1
        if count == 0 and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        plain(written, final)
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return replace

for moment in ("before", "after"):
    for attempt in range(1, 20):  # each gets one rename further than the one before
        child = os.fork()
        if not child:
            Path.replace = dies(moment, attempt)
            recode(sys.argv[1], moment, form, 1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            break
    if status or attempt < 5:
        sys.exit(f"exit code {status} at attempt {attempt}")
"""


def test_killed_before_or_after_any_rename_and_run_again_is_byte_identical(
    whole: Path, tmp_path: Path, ingest: SimpleNamespace
) -> None:
    command = [sys.executable, "-c", KILLED, str(whole)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    recode(whole, tmp_path / "unbroken", "codec=jp2", "max_side=64")
    for moment in ("before", "after"):
        assert ingest.contents(tmp_path / moment) == ingest.contents(tmp_path / "unbroken")


def test_the_same_command_again_says_complete_and_another_one_is_refused(
    whole: Path, tmp_path: Path, ingest: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    origin = tmp_path / "origin"
    subset(whole, origin, Part(1.0, 0, ("train",), {"split": "train"}, None, 0))
    out = recode(origin, tmp_path / "out", "codec=jp2").root
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    recode(origin, out, "codec=jp2")
    assert f"{out} is complete" in capsys.readouterr().out
    recode(origin, out, "codec=npy", code=2)
    assert 'codec: "jp2" there, "npy" here' in capsys.readouterr().err
    table = pq.read_table(origin / "manifest.parquet")
    study = table.schema.get_field_index("study")
    pq.write_table(table.set_column(study, "study", table["patient"]), origin / "manifest.parquet")
    recode(origin, out, "codec=jp2", code=2)
    assert "has changed since" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_damaged_samples_are_quarantined_counted_and_named(
    tmp_path: Path, ingest: SimpleNamespace, source: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    origin = ShardedDataset.open(sharded(tmp_path / "origin", ingest, source, codec="png"))
    rows = origin.table.to_pylist()
    image, masked = rows[5], next(row for row in rows[6:] if row["mask_size"] is not None)
    flip(origin.root / image["shard"], image["offset"] + image["size"] // 2)
    flip(origin.root / masked["shard"], masked["mask_offset"] + masked["mask_size"] // 2)
    made = recode(origin.root, tmp_path / "out", "codec=npy")
    lost = {image["key"]: "damaged in its shard: the image's checksum differs"}
    lost[masked["key"]] = "damaged in its shard: png cannot be decoded"
    assert made.column("key").tolist() == [row["key"] for row in rows if row["key"] not in lost]
    assert made.info.counts == origin.info.counts | {"train": origin.info.counts["train"] - 2}
    table = pq.read_table(made.root / "quarantine.parquet").to_pylist()
    assert len(table) == made.info.quarantined == origin.info.quarantined + 2
    assert {row["source"]: row["reason"] for row in table[1:]} == lost and verify(made.root, 1) == []
    assert [row["stage"] for row in table[1:]] == ["decode", "mask"]
    printed = capsys.readouterr().out
    assert "warning: 2 images" in printed and f"{image['shard']}, sample {image['key']}: damaged" in printed


def test_nothing_readable_is_an_error_and_leaves_nothing(
    tmp_path: Path, ingest: SimpleNamespace, source: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    origin = sharded(tmp_path / "origin", ingest, source, codec="png")
    for shard, size in ShardedDataset.open(origin).info.shards.items():
        (origin / shard).write_bytes(bytes(size))
    words = [f"path={origin}", "to=webdataset", f"out={tmp_path / 'out'}", "codec=jp2", "workers=1"]
    assert main(["convert", *words]) == 2
    assert "none of the 15 images of" in capsys.readouterr().err and not list((tmp_path / "out").iterdir())


def test_shards_of_two_datasets_with_one_name_are_numbered_anew(
    whole: Path, tmp_path: Path, ingest: SimpleNamespace
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.fromarray(ingest.picture(100 + number)).save(tmp_path / "images" / f"other{number}.png")
    convert(ingest.recipe("folder", images=str(tmp_path / "images")), tmp_path / "other", workers=1)
    merge([whole, tmp_path / "other"], tmp_path / "both", "both")
    both = ShardedDataset.open(tmp_path / "both")
    made = recode(both.root, tmp_path / "own", "codec=jp2", "bits=8")
    assert made.table.select(["key", "split"]).equals(both.table.select(["key", "split"]))
    assert len(made.info.shards) == len(both.info.shards) and verify(made.root, 1) == []


def test_names_of_shards() -> None:
    assert own_names(["../a/train-000003.tar", "../a/val-000000.tar"]) == ["train-000003.tar", "val-000000.tar"]
    assert own_names(["../a/t-000003.tar", "../b/t-000003.tar", "../b/v-000001.tar"]) == [
        "t-000000.tar", "t-000001.tar", "v-000000.tar",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["codec=jpg"], "codec=jpg: JPEG stores 8 bits, and 15 images of"),
        (["codec=jpg", "bits=16"], "bits=16 with codec=jpg: JPEG stores 8 bits"),
        (["codec=jpeg"], "codec=jpeg: must be one of png, jpg, jp2, npy, or null; did you mean 'jpg'?"),
        (["quality=80"], "quality=80 applies to JPEG, and these become png"),
        (["codec=png", "quality=80"], "quality=80 with codec=png: only codec=jpg has a quality"),
        (["bits=12"], "bits=12: must be 8 or 16"),
        (["max_side=200"], "has 15 images, png, 16 bits, at most 90 x 100 already"),
        ([], "say what to change, with codec, bits, max_side, quality"),
        (["codec=jp2", "to=ffcv"], "codec=jp2 with to=ffcv"),
        (["codec=jp2", "out=null"], "out must be given with to=webdataset"),
        (["codec=jp2", "out={path}"], "the origin stays as it is"),
    ],
)
def test_what_does_not_fit_is_one_line(
    whole: Path, tmp_path: Path, words: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(path=whole) for word in words]
    assert main(["convert", f"path={whole}", "to=webdataset", f"out={tmp_path / 'x'}", *words]) == 2
    error = capsys.readouterr().err
    assert printed in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_levels_that_were_lost_do_not_come_back_and_volumes_are_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eight = recode(whole, tmp_path / "eight", "bits=8").root
    assert main(["convert", f"path={eight}", "to=webdataset", f"out={tmp_path / 'x'}", "bits=16"]) == 2
    assert "bits=16: 15 images of" in capsys.readouterr().err
    make(tmp_path / "volumes", random_volumes(3))
    assert main(["convert", f"path={tmp_path / 'volumes'}", "to=webdataset", f"out={tmp_path / 'x'}", "codec=npy"]) == 2
    assert "holds volumes (dims 3), and to=webdataset converts images" in capsys.readouterr().err
