"""Whole conversions: what tar, webdataset and the manifest say of them, and that nothing but the inputs matters."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import webdataset
import xxhash
from PIL import Image

from dira_scale.data.codecs import decode
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.ingest.convert import convert
from dira_scale.shard import main

COLUMNS = {"file": "file", "patient": "patient", "study": None, "split": None, "mask": "mask"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def source_of(folder: Path) -> dict[str, object]:
    return {"images": str(folder / "images"), "labels": str(folder / "labels.csv"), "columns": COLUMNS}


def test_plain_tar_webdataset_and_the_manifest_agree(
    png_folder: Path, tmp_path: Path, ingest: SimpleNamespace
) -> None:  # fmt: skip
    out = tmp_path / "shards"
    convert(ingest.recipe("folder", shard_size=5, **source_of(png_folder)), out, workers=1)
    dataset = ShardedDataset.open(out)
    assert sum(dataset.info.counts.values()) == 24 and set(dataset.splits) == {"train", "val", "test"}
    assert {p.name for p in out.iterdir()} == {
        "dataset.json", "manifest.parquet", "quarantine.parquet", "croissant.json", *dataset.info.shards
    }  # fmt: skip
    originals = {np.asarray(Image.open(p)).tobytes(): p.stem for p in (png_folder / "images").iterdir()}
    patients: dict[str, set[str]] = {}
    rows = dataset.table.to_pylist()
    members = {}
    for shard in dataset.info.shards:
        with tarfile.open(out / shard) as tar:
            members |= {m.name: (shard, m.offset_data, m.size) for m in tar}
            assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in tar} == {(0, 0, 0, "", 0o644)}
    for number, row in enumerate(rows):
        payload = dataset.read(number)
        pixels = decode(payload, "png")
        name = originals.pop(pixels.tobytes())  # each image once, pixel for pixel
        assert members[f"{row['key']}.png"] == (row["shard"], row["offset"], row["size"])
        assert row["xxh3"] == xxhash.xxh3_64_hexdigest(payload) and (row["height"], row["width"]) == pixels.shape
        patients.setdefault(f"P{int(name[2:]) % 8}", set()).add(row["patient"] + row["split"])
        mask = dataset.read_mask(number)
        assert (mask is not None) == (int(name[2:]) < 10)
        if mask:
            assert members[f"{row['key']}.mask.png"] == (row["shard"], row["mask_offset"], row["mask_size"])
            np.testing.assert_array_equal(decode(mask, "png") > 0, pixels > 128)
        assert row["labels"][0] == int(name[2:]) % 2 and np.isnan(row["labels"][1]) == bool(int(name[2:]) % 3)
    assert not originals and all(len(hashes) == 1 for hashes in patients.values()) and len(patients) == 8

    seen = {}
    for sample in webdataset.WebDataset([str(out / s) for s in dataset.info.shards], shardshuffle=False).decode("l8"):
        assert set(sample) >= {"__key__", "png", "json"}
        seen[sample["__key__"]] = sample
    assert [*seen] == [row["key"] for row in rows]  # the same order, too
    for number, row in enumerate(rows):
        sample = seen[row["key"]]
        np.testing.assert_array_equal(sample["png"], decode(dataset.read(number), "png"))
        labels = [
            np.nan if sample["json"]["labels"][n] is None else sample["json"]["labels"][n] for n in ("nodule", "mass")
        ]
        np.testing.assert_array_equal(labels, row["labels"])
        assert ("mask.png" in sample) == (row["mask_size"] is not None)


@pytest.mark.parametrize("codec, bits", [("png", 16), ("jpg", 8), ("jp2", 16), ("npy", 8)])
def test_codecs_and_bits(tmp_path: Path, ingest: SimpleNamespace, codec: str, bits: int) -> None:
    stored = np.stack([np.linspace(0, 4095, 64).astype(np.uint16)] * 48)
    for number in range(3):
        ingest.dicom(
            tmp_path / "images" / f"{number}.dcm", np.roll(stored, number, 0) + number % 2, PatientID=f"{number}"
        )
    config = ingest.recipe("folder", images=str(tmp_path / "images"), codec=codec, bits=bits)
    convert(config, tmp_path / "out", workers=1)
    dataset = ShardedDataset.open(tmp_path / "out")
    pixels = decode(dataset.read(0), codec)
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16) and dataset.column("bits")[0] == bits
    scaled = pixels / dataset.column("high")[0]
    assert np.abs(scaled - stored / 4095).max() < (0.02 if codec == "jpg" else 0.0021 if bits == 8 else 1e-7)


def test_masks_boxes_and_spacing_follow_the_size(tmp_path: Path, ingest: SimpleNamespace) -> None:
    """A bright rectangle, its mask and its box still lie on one another at a third of the size."""
    pixels, mask = np.full((300, 240), 100, np.uint16), np.zeros((300, 240), np.uint8)
    pixels[60:120, 90:150], mask[60:120, 90:150] = 900, 1
    for number in range(3):
        ingest.dicom(tmp_path / "images" / f"{number}.dcm", pixels, PixelSpacing=["0.2", "0.2"])
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = [f"{number}.dcm" for number in range(3)]
    table = ingest.csv(tmp_path / "labels.csv", [{"file": f, "mask": "mask.png", "patient": f} for f in files])
    boxes = ingest.csv(
        tmp_path / "b.csv", [{"file": f, "label": "x", "y": 60, "x": 90, "h": 60, "w": 60} for f in files]
    )
    config = ingest.recipe(
        "folder", images=str(tmp_path / "images"), labels=str(table), boxes=str(boxes), columns=COLUMNS, max_side=100
    )
    convert(config, tmp_path / "out", workers=1)
    dataset = ShardedDataset.open(tmp_path / "out")
    row = dataset.table.to_pylist()[0]
    assert (row["height"], row["width"]) == (100, 80) and row["spacing"] == pytest.approx([0.6, 0.6])
    assert row["boxes"] == [{"label": "x", "y": 20, "x": 30, "h": 20, "w": 20}]
    expected = np.zeros((100, 80))
    expected[20:40, 30:50] = 1
    np.testing.assert_array_equal(decode(dataset.read_mask(0) or b"", "png"), expected)
    np.testing.assert_array_equal(decode(dataset.read(0), "png") > 127, expected)


def test_bad_inputs_go_to_quarantine_and_every_good_one_is_kept(
    png_folder: Path, tmp_path: Path, ingest: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    images = png_folder / "images"
    good = (images / "im05.png").read_bytes()
    (images / "im05.png").write_bytes(good[: len(good) // 2])
    (images / "im06.png").write_bytes(b"")
    (images / "im07.png").unlink()
    (images / "Doe_John.txt").write_text("not an image")
    Image.fromarray(ingest.picture(0, 20, 90)).save(images / "im08.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(png_folder / "masks" / "m03.png")
    out = tmp_path / "shards"
    convert(ingest.recipe("folder", **source_of(png_folder)), out, workers=1)
    quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert sorted((entry["stage"], entry["reason"]) for entry in quarantine) == [
        ("check", "shorter side is below 32 pixels"),
        ("decode", "damaged or cut short (OSError in PNG decoding)"),
        ("decode", "the file cannot be read (FileNotFoundError)"),
        ("decode", "the file is empty"),
        ("list", "no row in the CSV of labels"),
        ("mask", "mask of (9, 9) pixels for an image of (48, 40)"),
    ]
    dataset = ShardedDataset.open(out)
    assert sum(dataset.info.counts.values()) == 24 - 5 and dataset.info.quarantined == 6
    assert "quarantined: 6" in capsys.readouterr().out
    assert not any(b"Doe_John" in content for content in contents(out).values())
    assert "Doe_John.txt,list,no row" in (tmp_path / "shards.rejected.csv").read_text()


def test_nothing_usable_is_an_error(tmp_path: Path, ingest: SimpleNamespace) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.txt").write_text("text")
    with pytest.raises(UserError, match="none of the 1 inputs is usable: 1 x not a PNG, JPEG or DICOM file"):
        convert(ingest.recipe("folder", images=str(tmp_path / "images")), tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_nothing_that_identifies_leaves(tmp_path: Path, ingest: SimpleNamespace) -> None:
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 4096, (40, 40)).astype(np.uint16)
        person = f"{ingest.identity['PatientID']}-{number}"
        path = tmp_path / "images" / f"Quillfeather_{number}" / "scan.dcm"
        ingest.dicom(
            path, pixels, PatientID=person, PatientAge="093Y", PatientSex="F", ViewPosition="PA", Manufacturer="GE"
        )
    config = ingest.recipe("folder", images=str(tmp_path / "images"), attributes=["sex", "age", "manufacturer"])
    convert(config, tmp_path / "out", workers=1)
    dataset = ShardedDataset.open(tmp_path / "out")
    assert dict(dataset.table["attributes"][0].as_py()) == {"age": "90", "manufacturer": "ge", "sex": "F"}
    pq.write_table(dataset.table, tmp_path / "out" / "plain.parquet", compression="none", use_dictionary=False)
    values = {part for value in ingest.identity.values() for part in re.split(r"[\^ ]", value)} - {"Saint"}
    for name, content in contents(tmp_path / "out").items():
        for value in (*values, "scan.dcm", "093", "Osbertina", str(tmp_path)):
            assert value.encode() not in content, (name, value)


def test_workers_do_not_matter(png_folder: Path, tmp_path: Path, ingest: SimpleNamespace) -> None:
    config = ingest.recipe("folder", shard_size=3, codec="jp2", **source_of(png_folder))
    convert(config, tmp_path / "one", workers=1)
    convert(config, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def start(options: list[str], shards: int) -> subprocess.Popen:
    """A real conversion in a process of its own, returned when it has finished that many shards."""
    out = Path(options[-1].removeprefix("out="))
    process = subprocess.Popen(
        [sys.executable, "-m", "dira_scale.shard", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 60
    while len(list((out / ".partial").glob("*-*.json"))) < shards:
        assert process.poll() is None and time.monotonic() < deadline, "it ended, or took more than a minute"
        time.sleep(0.002)
    return process


def many_images(folder: Path, ingest: SimpleNamespace) -> list[str]:
    (folder / "images").mkdir()
    for number in range(120):
        Image.fromarray(ingest.picture(number, 400, 400)).save(folder / "images" / f"{number}.png")
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG")
    return ["recipe=folder", f"recipe.images={folder / 'images'}", "recipe.shard_size=4", "workers=2"]


def test_killed_and_run_again_is_byte_identical(tmp_path: Path, ingest: SimpleNamespace) -> None:
    options = many_images(tmp_path, ingest)
    assert main([*options, f"out={tmp_path / 'unbroken'}"]) == 0
    out = tmp_path / "killed"
    for shards in (1, 12):  # the second run goes on with what the first one left
        process = start([*options, f"out={out}"], shards)
        children = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive, "workers outlive their parent"
    assert not (out / "manifest.parquet").exists()
    assert main([*options, f"out={out}"]) == 0
    assert contents(out) == contents(tmp_path / "unbroken")


def test_ctrl_c_keeps_what_is_finished_and_says_so(tmp_path: Path, ingest: SimpleNamespace) -> None:
    process = start([*many_images(tmp_path, ingest), f"out={tmp_path / 'out'}"], shards=1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert b"run the same command again" in said and b"Traceback" not in said


def test_a_finished_dataset_is_left_alone_and_another_recipe_refused(
    png_folder: Path, tmp_path: Path, ingest: SimpleNamespace, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    config, out = ingest.recipe("folder", **source_of(png_folder)), tmp_path / "out"
    convert(config, out, workers=1)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (png_folder / "labels.csv").unlink()
    convert(config, out, workers=1)  # at once: the source is not even looked at
    assert "is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match="max_side: null there, 40 here"):
        convert(config | {"max_side": 40}, out, workers=1)
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", "another key for tests only")
    with pytest.raises(UserError, match="hash_key"):
        convert(config, out, workers=1)


def test_unfinished_work_is_only_gone_on_with_on_the_same_inputs(
    png_folder: Path, tmp_path: Path, ingest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = ingest.recipe("folder", **source_of(png_folder)), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("dira_scale.ingest.convert.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(config, out, workers=1)
    with pytest.raises(UserError, match=r"unfinished conversion of another recipe .*min_side: 32 there, 16 here"):
        convert(config | {"min_side": 16}, out, workers=1)
    table = (png_folder / "labels.csv").read_text()
    (png_folder / "labels.csv").write_text(table.replace("im03.png,P3", "im03.png,P4"))
    with pytest.raises(UserError, match="have changed since"):
        convert(config, out, workers=1)
    (png_folder / "labels.csv").write_text(table)
    convert(config, out, workers=1)
    assert ShardedDataset.open(out)


HOLD = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"


def test_another_process_or_a_foreign_folder_is_refused(
    png_folder: Path, tmp_path: Path, ingest: SimpleNamespace
) -> None:  # fmt: skip
    config = ingest.recipe("folder", **source_of(png_folder))
    (tmp_path / "home" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match="not empty and is no sharded dataset"):
        convert(config, tmp_path / "home", workers=1)
    out = tmp_path / "out" / ".partial"
    out.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, out / "lock"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout and holder.stdout.readline()
        with pytest.raises(UserError, match="another process is writing"):
            convert(config, tmp_path / "out", workers=1)
    finally:
        holder.kill()
        holder.wait()


def test_croissant_names_what_is_there(png_folder: Path, tmp_path: Path, ingest: SimpleNamespace) -> None:
    convert(ingest.recipe("folder", **source_of(png_folder)), tmp_path / "out", workers=1)
    text = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert text["conformsTo"] == "http://mlcommons.org/croissant/1.0" and text["name"] == "folder"
    table = pq.read_table(tmp_path / "out" / "manifest.parquet")
    assert {f["source"]["extract"]["column"] for f in text["recordSet"][0]["field"]} <= set(table.column_names)


REAL = {
    "pediatric_pneumonia": ("pediatric_pneumonia_224", "labels.csv", {"train": 2099, "val": 294, "test": 607}),
    "shenzhen": ("shenzhen_256", "list.csv", None),
    "chestxray14_small": ("chestxray14_nih1000_64", "labels.csv", None),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_images(tmp_path: Path, ingest: SimpleNamespace, name: str) -> None:
    folder, table, counts = REAL[name]
    root = Path(os.environ.get("DIRA_SCALE_DATA", Path(__file__).parents[3] / "shared" / "data")) / folder
    if not root.is_dir():
        pytest.skip(f"{root} is absent: DIRA_SCALE_DATA names the folder of real images")
    convert(ingest.recipe(name, images=str(root / "images"), labels=str(root / table)), tmp_path / "out", workers=2)
    dataset = ShardedDataset.open(tmp_path / "out")
    assert dataset.info.quarantined == 0
    assert sum(dataset.info.counts.values()) == len(list((root / "images").iterdir()))
    if counts:
        assert dataset.info.counts == counts
    patients = dataset.table.group_by("patient").aggregate([("split", "count_distinct")])
    assert set(patients["split_count_distinct"].to_pylist()) == {1}
    rng = np.random.default_rng(0)
    for row in rng.choice(dataset.table.num_rows, 5, replace=False):
        pixels = decode(dataset.read(row), dataset.info.codec)
        assert pixels.ndim == 2 and pixels.std() > 10
        mask = dataset.read_mask(row)
        assert (mask is not None) == (name == "shenzhen")
        if mask:
            lungs = np.asarray(Image.open(io.BytesIO(mask))) > 0
            assert pixels[lungs].mean() < pixels[~lungs].mean() + 30 and 0.1 < lungs.mean() < 0.6
