"""Whole conversions: what tar, webdataset and the manifest say of them, and that nothing but the inputs matters."""

import csv
import os
import re
import shutil
import stat
import tarfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
import xxhash
from archive import ingest
from dataset.conftest import make_dataset
from needs import real_data
from PIL import Image
from rich.console import Console

from dira_scale.archive import outcome, writer
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard import main
from dira_scale.shard.convert import convert

__all__ = ["make_dataset"]


def test_plain_tar_webdataset_and_the_manifest_agree(png_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    convert(ingest.recipe("folder", shard_size=5, **ingest.source_of(png_folder)), out, workers=1)
    dataset = ShardedDataset.open(out)
    assert sum(dataset.info.counts.values()) == 24 and set(dataset.splits) == {"train", "val", "test"}
    assert {p.name for p in out.iterdir()} == {
        "dataset.json", "manifest.parquet", "manifest.index", "quarantine.parquet", "croissant.json",
        *dataset.info.shards,
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
def test_codecs_and_bits(tmp_path: Path, codec: str, bits: int) -> None:
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


@pytest.mark.parametrize("bits, chosen", [(8, "jpg"), (16, "jp2")])
def test_the_codec_for_gpus_is_measured_beside_png_and_chosen(
    tmp_path: Path,
    png_folder: Path,
    bits: int,
    chosen: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sizes are those of the libraries that encode; beside no GPU, or of what GPUs decode, there is no such line."""
    made = {}
    convert(ingest.recipe("folder", images=str(png_folder), bits=bits), tmp_path / "cpu", workers=1)
    assert "codec: " not in capsys.readouterr().out
    monkeypatch.setattr("dira_scale.shard.convert.gpus", lambda: (("a GPU",), ""))
    for codec in (None, "gpu"):
        config = ingest.recipe("folder", images=str(png_folder), codec=codec, bits=bits)
        convert(config, tmp_path / str(codec), workers=1)
        made[codec] = ShardedDataset.open(tmp_path / str(codec)), capsys.readouterr().out
    (plain, printed), (other, silent) = made.values()
    assert other.info.codec == chosen and set(other.column("codec")) == {chosen}
    (line,) = [line for line in printed.splitlines() if line.startswith("codec: ")]
    assert line.endswith(f"recipe.codec=gpu, which stores {chosen}") and "codec: " not in silent
    rows = np.unique(np.linspace(0, sum(plain.info.counts.values()) - 1, 8).astype(int))
    pngs = [plain.read(row) for row in rows]
    encoders = {"jp2": imagecodecs.htj2k_encode, "jpg": lambda x: imagecodecs.jpeg8_encode(x, 95)}
    if bits == 16:
        del encoders["jpg"]
    sizes = {name: [len(encode(imagecodecs.png_decode(png))) for png in pngs] for name, encode in encoders.items()}
    for name, size in {"png": [*map(len, pngs)], **sizes}.items():
        (printed_size,) = re.findall(rf"{name}[^;]*?(\d+) KB", line)
        assert int(printed_size) == pytest.approx(np.mean(size) / 1e3, abs=1)


def test_masks_boxes_and_spacing_follow_the_size(tmp_path: Path) -> None:
    """A bright rectangle, its mask and its box still lie on one another at a third of the size; of an image whose width
    is no multiple of three, the box as much narrower as the image."""
    pixels, mask = np.full((300, 240), 100, np.uint16), np.zeros((300, 240), np.uint8)
    pixels[60:120, 90:150], mask[60:120, 90:150] = 900, 200
    for number, width in enumerate((240, 240, 200)):
        ingest.dicom(tmp_path / "images" / f"{number}.dcm", pixels[:, :width], PixelSpacing=["0.2", "0.2"])
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files, masks = [f"{number}.dcm" for number in range(3)], ["mask.png", "mask.png", ""]
    lines = [{"file": f, "mask": m, "patient": f} for f, m in zip(files, masks, strict=True)]
    ingest.csv(tmp_path / "labels.csv", lines)
    boxes = ingest.csv(
        tmp_path / "b.csv", [{"file": f, "label": "x", "y": 60, "x": 90, "h": 60, "w": 60} for f in files]
    )
    config = ingest.recipe("folder", **ingest.source_of(tmp_path), boxes=str(boxes), max_side=100)
    convert(config, tmp_path / "out", workers=1)
    dataset = ShardedDataset.open(tmp_path / "out")
    rows = dataset.table.to_pylist()
    number, other = (next(n for n, row in enumerate(rows) if row["width"] == width) for width in (80, 67))
    box = {side: value for side, value in rows[other]["boxes"][0].items() if side in "yxhw"}
    assert box == pytest.approx({"y": 20, "x": 90 * 67 / 200, "h": 20, "w": 60 * 67 / 200})
    row = rows[number]
    assert (row["height"], row["width"]) == (100, 80) and row["spacing"] == pytest.approx([0.6, 0.6])
    assert row["boxes"] == [{"label": "x", "y": 20, "x": 30, "h": 20, "w": 20, "z": 0, "d": 1}]
    expected = np.zeros((100, 80))
    expected[20:40, 30:50] = 200
    np.testing.assert_array_equal(decode(dataset.read_mask(number) or b"", "png"), expected)
    np.testing.assert_array_equal(decode(dataset.read(number), "png") > 127, expected > 0)


def test_bad_inputs_go_to_quarantine_and_every_good_one_is_kept(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = png_folder / "images"
    good = (images / "im05.png").read_bytes()
    (images / "im05.png").write_bytes(good[: len(good) // 2])
    (images / "im06.png").write_bytes(b"")
    (images / "im07.png").unlink()
    (images / "Doe_John.txt").write_text("not an image")
    Image.fromarray(ingest.picture(0, 20, 90)).save(images / "im08.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(png_folder / "masks" / "m03.png")
    (png_folder / "masks" / "m04.png").write_bytes(good[: len(good) // 2])
    out = tmp_path / "shards"
    convert(ingest.recipe("folder", **ingest.source_of(png_folder), attributes="view"), out, workers=1)
    quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert sorted((entry["stage"], entry["reason"]) for entry in quarantine) == [
        ("check", "shorter side is below 32 pixels (recipe.min_side)"),
        ("decode", "damaged or cut short (OSError in PNG decoding)"),
        ("decode", "the file is empty"),
        ("list", "named in the CSV, not there"),
        ("mask", "damaged or cut short (OSError in PNG decoding)"),
        ("mask", "the mask is of another size than its image"),
    ]
    dataset = ShardedDataset.open(out)
    assert sum(dataset.info.counts.values()) == 24 - 6 and dataset.info.quarantined == 6
    printed = capsys.readouterr().out
    assert "quarantined: 6" in printed and "warning: 25% of the inputs were refused" in printed
    assert "not used: 1 x a document or table by its name (Doe_John.txt)" in printed
    assert len(re.findall(r"^  [12] x ", printed, re.MULTILINE)) == 5 and "other reasons" not in printed
    assert "attributes: no sample has view;" in printed
    assert not any(b"Doe_John" in content for content in ingest.contents(out).values())
    names = tmp_path / "shards.rejected.csv"
    assert "im06.png,decode,the file is empty" in names.read_text() and stat.S_IMODE(names.stat().st_mode) == 0o600


def test_names_of_any_bytes_and_a_dataset_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir(), out.mkdir()
    for number in range(3):
        Image.fromarray(ingest.picture(number)).save(os.fsencode(images) + b"/M\xfcller%d.png" % number)
    Path(os.fsdecode(os.fsencode(images) + b"/Gr\xfcn.png")).write_text("text")
    monkeypatch.chdir(out)
    convert(ingest.recipe("folder", images=str(images)), Path(), workers=1)
    assert sum(ShardedDataset.open(out).info.counts.values()) == 3
    assert b"Gr\xfcn.png,decode" in (tmp_path / "out.rejected.csv").read_bytes()


def test_what_a_codec_cannot_hold_and_boxes_outside_go_to_quarantine(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.tile(np.arange(33, dtype=np.uint8), (66_000, 1))).save(tmp_path / "images" / "long.png")
    for name in ("a", "b"):
        Image.fromarray(ingest.picture(1)).save(tmp_path / "images" / f"{name}.png")
    box = {"label": "m", "y": 0, "x": 0, "w": 4}
    boxes = ingest.csv(
        tmp_path / "b.csv", [{"file": f"{name}.png", "h": h} | box for name, h in (("a", 48), ("b", 60))]
    )
    convert(
        ingest.recipe("folder", images=str(tmp_path / "images"), boxes=str(boxes), codec="jpg"), tmp_path / "out", 1
    )
    found = {
        entry["stage"]: entry["reason"] for entry in pq.read_table(tmp_path / "out/quarantine.parquet").to_pylist()
    }
    assert found["check"] == "a box reaches out of the image by more than a pixel"
    assert found["encode"].startswith("jpg cannot hold it (") and len(found) == 2


def test_nothing_usable_is_an_error_and_the_mended_command_works(png_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("text")
    with pytest.raises(UserError, match="none of the 1 inputs is usable: 1 x not a PNG, JPEG, TIFF"):
        convert(ingest.recipe("folder", images=str(tmp_path / "images")), tmp_path / "out", workers=1)
    assert not list((tmp_path / "out").iterdir())
    convert(ingest.recipe("folder", **ingest.source_of(png_folder)), tmp_path / "out", workers=1)
    assert (tmp_path / "out" / "manifest.parquet").exists()


REAL = {
    "pediatric_pneumonia": ("pediatric_pneumonia_224", "labels.csv", {"train": 2099, "val": 294, "test": 607}),
    "shenzhen": ("shenzhen_256", "list.csv", None),
}


@pytest.mark.data
@pytest.mark.parametrize(
    "name, every",
    [
        pytest.param("pediatric_pneumonia", 10, marks=pytest.mark.system),
        ("shenzhen", 4),
        *(pytest.param(name, 1, marks=pytest.mark.torture) for name in REAL),
    ],
)
def test_real_images(tmp_path: Path, name: str, every: int) -> None:
    folder, table, counts = REAL[name]
    root = real_data(folder)
    with (root / table).open(newline="") as file:
        rows = list(csv.DictReader(file))[::every]
    for cell in (row[column] for row in rows for column in ("image", "mask") if row.get(column)):
        path = Path(cell) if "/" in cell else Path("images", cell)
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(root / path, tmp_path / path)
    listed = ingest.csv(tmp_path / table, rows)
    convert(ingest.recipe(name, images=str(tmp_path / "images"), labels=str(listed)), tmp_path / "out", workers=2)
    dataset = ShardedDataset.open(tmp_path / "out")
    assert dataset.info.quarantined == 0 and sum(dataset.info.counts.values()) == len(rows)
    if counts and every == 1:
        assert len(rows) == len(list((root / "images").iterdir()))
        assert dataset.info.counts == counts
    patients = dataset.table.group_by("patient").aggregate([("split", "count_distinct")])
    assert set(patients["split_count_distinct"].to_pylist()) == {1}
    assert dataset.has_mask(np.arange(len(rows))).all() == (name == "shenzhen")


@pytest.mark.parametrize(
    ("keys", "printed"),
    [
        (["recipe.images=", "out={out}"], "recipe.images= is empty: name a folder"),
        (["recipe.images={images}", "out="], "out= is empty: name a folder"),
        (["recipe.images={images}", "out={images}/shards"], "would be listed as images"),
        (["recipe.images={images}", "out={locked}/a/b"], "locked is not writable: choose another out"),
    ],
)
def test_places_that_cannot_be_meant_are_reported_before_anything_is_listed(
    keys: list[str], printed: str, png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """An empty one is a shell's variable that was not set: the folder in which it is typed is not meant."""
    monkeypatch.chdir(png_folder)
    locked, access = tmp_path / "locked", os.access
    locked.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))  # this may be root
    locations = {"images": png_folder / "images", "out": tmp_path / "out", "locked": locked}
    assert main(["recipe=folder", *(key.format(**locations) for key in keys)]) == 2
    reported = capsys.readouterr()
    assert printed in reported.err and "files" not in reported.out
    assert not (tmp_path / "out").exists() and not (png_folder / "images" / "shards").exists()


@pytest.mark.parametrize(
    ("counts", "refused", "following"),
    [
        ({"train": 3000, "val": 1, "_target_": "Phantom"}, 0, "experiment=phantom data.shards=d run=out/runs/n"),
        # `small` needed 2,600 steps to learn: 28 epochs of 93. 109 images are 84 steps: 31 times as many are needed.
        ({"train": 3000, "val": 1}, 0, "experiment=small data.shards=d run=out/runs/n"),
        ({"train": 109, "val": 1}, 0, "experiment=small data.shards=d run=out/runs/n epoch_factor=31"),
        ({"train": 3000, "val": 0}, 0, "experiment=small data.shards=d run=out/runs/n data.val_split=null"),
        ({"train": 31, "val": 1}, 0, None),
        ({"train": 0, "val": 17}, 0, None),
        ({"train": 99, "val": 1}, 999, None),
    ],
)
def test_the_next_command_works_or_is_not_proposed(
    counts: dict[str, Any],
    refused: int,
    following: str | None,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcome, "finetuning", lambda *_: "")  # of samples, and there are none here
    recipe = {"_target_": counts.pop("_target_", "Folder")}
    info = SimpleNamespace(
        counts=counts, quarantined=refused, patients_in_two_splits=0, shards={"a": 1}, split_remark="", dims=2,
        recipe=recipe, name="n", channels=[], in_colour=False,
    )  # fmt: skip
    made = outcome.ConversionOutcome(info, Counter({"blank": refused} if refused else {}), None, (0, 0), [])
    outcome.print_outcome(Console(soft_wrap=True), Path("d"), made, 1.0)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")] or [None]
    assert line == (following and f"next: python -m dira_scale.pretrain {following}")


def test_fine_tuning_is_proposed_of_what_each_split_can_be_judged_by(
    make_dataset: Callable[..., ShardedDataset],
) -> None:
    """In each split the same values of masks, which are named if there are several; of labels both in each."""
    images, splits = [np.full((40, 40), n, np.uint8) for n in range(8)], ["train"] * 4 + ["val"] * 2 + ["test"] * 2

    def proposed(**given: Any) -> str:
        dataset = make_dataset(images, **{"splits": splits} | given)
        return outcome.finetuning(dataset.root, dataset.info)

    discs = [np.eye(40, dtype=np.uint8) for _ in images]
    assert "task=masks preset=images_small data.shards=" in proposed(masks=discs)
    parts = [disc + 2 * disc[::-1] for disc in discs]
    assert "task.classes={class_1: 1, class_2: 2" in proposed(masks=parts)
    assert not proposed(masks=[*parts[:4], *discs[4:]]) and not proposed(masks=[0 * disc for disc in discs])
    assert "task=labels" in proposed(label_names=["x"], labels=[[n % 2] for n in range(8)])
    assert not proposed(label_names=["x"], labels=[[n % 2 and n != 5] for n in range(8)])
    assert not proposed(label_names=["x"], labels=[[n] for n in range(8)]) and not proposed()


def test_most_inputs_refused_is_reported_while_it_converts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def threads(workers: int, _: str, prepare: Callable[..., None], *shared: Any) -> ThreadPoolExecutor:
        prepare(*shared)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(writer, "_worker", None)
    monkeypatch.setattr(writer, "worker_pool", threads)
    monkeypatch.setattr(writer, "TRIED", 3)
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.uint16)
    for number, text in enumerate(("YES", "YES", "YES", "NO")):
        ingest.dicom(tmp_path / "images" / f"{number}.dcm", pixels, BurnedInAnnotation=text)
    convert(ingest.recipe("folder", images=str(tmp_path / "images")), tmp_path / "out", workers=1)
    (line,) = caplog.messages
    assert re.match(r"3 of the first [34] inputs are refused, the last one because: .*recipe.burned_in=keep", line)
