"""``shard stats``: its figures against counting by hand, and a page that stands by itself."""

import re
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train.data.volumes import make, random_volumes

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.schema import SCHEMA
from dira_scale.dataset.pixels.outlines import COLOURS, fitted, outlined
from dira_scale.shard import main
from dira_scale.shard.curate.stats import Stats, oddities
from dira_scale.shard.curate.stats_page import TILE, render_dataset, tile

PATIENTS = 12


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms: labels, boxes, masks, attributes."""
    folder = tmp_path_factory.mktemp("stats")
    made = [f"+recipe.folder={folder / 'src'}", f"recipe.patients={PATIENTS}", "recipe.size=64", "recipe.max_side=48"]
    assert main(["recipe=phantom_cxr", f"out={folder / 'ds'}", "workers=1", *made]) == 0
    return folder / "ds"


def test_figures_are_those_of_counting(path: Path) -> None:
    dataset = ShardedDataset.open(path)
    stats, rows = Stats(dataset), dataset.table.to_pylist()
    for split in stats.splits:
        mine = [row for row in rows if row["split"] == split.name]
        assert (split.samples, split.patients) == (len(mine), len({row["patient"] for row in mine}))
        assert split.studies == len({row["study"] for row in mine})
        assert split.masks == sum(row["mask_size"] is not None for row in mine) > 0
        assert split.boxes == sum(len(row["boxes"]) for row in mine)
        assert split.megabytes == pytest.approx(sum(row["size"] + (row["mask_size"] or 0) for row in mine) / 1e6)
    for label in chain(*stats.labels.values()):
        number = dataset.info.label_names.index(label.name)
        values = [row["labels"][number] for row in rows if row["split"] == label.split]
        assert label.values == {value: values.count(value) for value in {0.0, 1.0} & set(values)}
        assert label.unknown == sum(value != value for value in values) == len(values) - label.known
    sexes = [dict(row["attributes"])["sex"] for row in rows]
    assert dict(stats.attributes["sex"]) == {sex: sexes.count(sex) for sex in set(sexes)}


def test_intensities_are_of_the_pixels_that_training_sees(path: Path) -> None:
    stats = Stats(ShardedDataset.open(path))
    pixels = sum(row["height"] * row["width"] for row in stats.dataset.table.to_pylist())
    assert stats.intensities.sum() == pixels
    picture = stats.dataset.picture(0)
    assert picture.min() >= 0 and picture.max() <= 1 and picture.std() > 0.05
    assert tile(stats, 0).shape == (TILE, TILE, 3) and tile(stats, 0).std() > 20


def test_a_tile_has_the_outline_of_the_mask_and_the_boxes(path: Path) -> None:
    """Against the mask itself: where the outline is, a pixel of the mask lies beside one that is none."""
    stats = Stats(ShardedDataset.open(path))
    row = next(
        n
        for n, boxes in enumerate(stats.dataset.table["boxes"].to_pylist())
        if boxes and stats.dataset.mask(n) is not None
    )
    mask, shown = stats.dataset.mask(row), tile(stats, row).astype(int)
    assert mask is not None
    side = fitted(mask, TILE, PIL.Image.Resampling.NEAREST) > 0
    line = (shown == COLOURS["orange"]).all(-1)
    assert 100 < line.sum() < 0.2 * side.sum() and not (line & ~side).any()
    ys, xs = line.nonzero()
    assert all(not side[y - 2 : y + 3, x - 2 : x + 3].all() for y, x in zip(ys, xs, strict=True))
    box = stats.dataset.cell("boxes", row)[0]
    fit = TILE / max(mask.shape)
    top, left = ((TILE - round(length * fit)) // 2 for length in mask.shape)
    y, x = round(top + box["y"] * fit), round(left + (box["x"] + box["w"] / 2) * fit)
    assert (shown[max(y - 1, 0) : y + 3, min(x, TILE - 1)] == 255).all(-1).any()


def test_a_split_whose_images_were_all_rejected(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), noise)
    (tmp_path / "images" / "3.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text("file,split\n0.png,train\n1.png,train\n2.png,train\n3.png,test\n")
    words = ["recipe=folder", f"recipe.images={tmp_path / 'images'}", f"recipe.labels={tmp_path / 't.csv'}",
             "recipe.columns.split=split", "recipe.columns.patient=null"]  # fmt: skip
    assert main([*words, f"out={tmp_path / 'ds'}", "workers=1"]) == 0
    assert main(["stats", f"path={tmp_path / 'ds'}"]) == 0
    stats = Stats(ShardedDataset.open(tmp_path / "ds"))
    assert {split.name: (split.samples, split.megabytes > 0) for split in stats.splits}["test"] == (0, False)
    assert (tmp_path / "ds.stats.html").exists()


def test_what_is_odd_is_reported(path: Path) -> None:
    stats = Stats(ShardedDataset.open(path))
    never: dict[str, list[str]] = {}
    for name, labels in stats.labels.items():
        if splits := ", ".join(label.split for label in labels if label.positive == 0):
            never.setdefault(splits, []).append(name)
    assert never
    assert {
        f"never 1 in {splits}: label{'s' * (len(names) > 1)} {', '.join(names)}" for splits, names in never.items()
    } == {text for text in oddities(stats) if "never" in text}


def test_masks_among_the_images_and_labels_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["file,patient,split,a,b,grade"]
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255 if number % 2 else 3, (64, 64)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), noise)
        lines.append(f"{number}.png,{number},{'train' if number < 4 else 'test'},,,{number % 3}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    words = ["recipe=folder", f"recipe.images={tmp_path / 'images'}", f"recipe.labels={tmp_path / 't.csv'}",
             "recipe.columns.split=split", "recipe.label_columns=[a, b, grade]"]  # fmt: skip
    assert main([*words, f"out={tmp_path / 'ds'}", "workers=1"]) == 0
    stats = Stats(ShardedDataset.open(tmp_path / "ds"))
    assert {"unknown in all of train, test: labels a, b", "3 of 6 sampled images have at most 16 distinct values: "
            "masks among the images?"} <= set(oddities(stats))  # fmt: skip
    assert [str(label) for label in stats.labels["grade"]] == ["0: 2, 1: 1, 2: 1", "1: 1, 2: 1"]
    assert str(stats.labels["a"][0]) == "4 unknown" and not stats.shared_patients


def test_the_page_needs_nothing_else(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", f"path={path}"]) == 0
    page = path.with_name("ds.stats.html")
    printed, html = capsys.readouterr().out, page.read_text()
    assert str(page.resolve()) in printed and "train" in printed
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html) and html.count("<svg") == 3
    assert html == render_dataset(Stats(ShardedDataset.open(path)))  # the same dataset, the same page
    assert not np.isin(["nan", "None"], re.findall(r">([^<]*)<", html)).any()


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("codec", ["b2nd", "npy"])
def test_volumes_that_are_damaged_or_of_another_size_are_told_in_a_line(
    tmp_path: Path, codec: str, mask: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is decoded before a checksum is compared: blosc2 would take gigabytes, or raise whatever it likes."""
    dataset = make(tmp_path / "ds", random_volumes(2), codec)
    shard, place = dataset.file("train-000000.tar"), "mask_offset" if mask else "offset"
    whole, words = shard.read_bytes(), ["stats", f"path={dataset.root}"]
    start, size = (int(dataset.index.records[0][name]) for name in (place, place.replace("offset", "size")))
    rng = np.random.default_rng(0)
    told = []
    for _ in range(40):
        damaged = bytearray(whole)
        for at in start + rng.integers(0, size, 20):
            damaged[at] ^= 0xFF
        shard.write_bytes(damaged)
        if main(words):  # else none of the bytes is looked at
            (line,) = capsys.readouterr().err.splitlines()
            told.append(line)
            assert "ds: sample v0 (shard train-000000.tar, offset" in line and ("its mask: " in line) == mask
    assert len(told) > 20
    shard.write_bytes(whole)
    rows = pq.read_table(dataset.root / "manifest.parquet").to_pylist()
    rows[0]["depth"] += 40
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), dataset.root / "manifest.parquet")
    assert main(words) == 2 and "ds: sample v0 (shard" in capsys.readouterr().err


def test_a_thin_box_and_one_at_the_edge_are_drawn(tmp_path: Path) -> None:
    thin = outlined(np.zeros((1500, 48), np.uint8), None, [(700, 20, 1, 1)], TILE)
    assert thin.any()
    edge = {"label": "a", "y": 0.0, "x": 0.0, "h": 5.0, "w": 5.0, "z": 17.2, "d": 0.6}  # out by less than a voxel
    assert tile(Stats(make(tmp_path / "ds", random_volumes(2), boxes=[[edge], [edge]])), 1).shape == (TILE, TILE, 3)
