"""LIDC-IDRI: what four readers drew, as the voxels that two of them enclose."""

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import scipy.ndimage
from archive import ingest
from archive.sources import miniatures_3d
from archive.sources.miniatures import write_text

from dira_scale.archive.imaging.dicom.frames import Plane
from dira_scale.archive.imaging.volumes.lidc_xml import _enclosed
from dira_scale.archive.imaging.volumes.regrid import Stack
from dira_scale.archive.imaging.volumes.series import Series
from dira_scale.archive.imaging.volumes.slice_position import place_slices
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.lidc_idri import LidcIdri, VoxelRows

SHAPE = (9, 40, 44)
Block = tuple[range, slice, slice]  # slices, rows, columns


def stated(uid: str, blocks: list[Block], rating: int | None, holes: list[Block], feet_first: bool) -> tuple:
    """A nodule of the XML: outlines in the pixels of the files, whose columns run the other way feet first."""
    outlines = []
    for inclusion, parts in ((True, blocks), (False, holes)):
        for slices, rows, columns in parts:
            seen = slice(44 - columns.stop, 44 - columns.start) if feet_first else columns
            for z in slices:
                outlines.append((f"{uid}.{8 - z if feet_first else z}", inclusion, miniatures_3d.walk(rows, seen)))
    return rating, outlines


@pytest.fixture
def made(tmp_path: Path) -> dict[str, np.ndarray]:
    """Two scans with the same readings; readings of the second one's lie in a folder of their own."""
    scans = miniatures_3d.lidc_idri(tmp_path / "lidc")
    first = (range(2, 6), slice(10, 18), slice(12, 20))  # three readers see it
    second = (range(3, 7), slice(11, 19), slice(13, 22))  # of which one draws it elsewhere, another with a hole
    third = (range(2, 5), slice(9, 17), slice(12, 20))
    hole = (range(4, 5), slice(13, 15), slice(15, 17))
    far = (range(6, 8), slice(25, 33), slice(30, 36))  # two readers: one box within the other
    near = (range(6, 9), slice(26, 31), slice(31, 40))
    alone = (range(2), slice(30, 34), slice(4, 9))  # one reader
    for n, uid in enumerate(scans):
        turned = n == 1

        def nodule(*blocks: Block, rating: int | None, holes: list = [], uid=uid, turned=turned) -> tuple:  # noqa: B006
            return stated(uid, list(blocks), rating, holes, turned)

        point = (None, [(f"{uid}.3", True, [(6, 5)])])
        readers = [
            [nodule(first, rating=4), nodule(far, rating=1)],
            [nodule(second, rating=5, holes=[hole]), point],
            [nodule(third, rating=5), nodule(alone, rating=5)],
            [nodule(near, rating=3), nodule(far, rating=3)],  # the same one twice, which counts once
        ]
        location = "LIDC-IDRI-0001/1.2.0/1.3.6.101/069.xml" if n == 0 else "tcia-lidc-xml/157/158.xml"
        miniatures_3d.readings(tmp_path / "lidc" / location, uid, readers)
    return scans


def expected() -> tuple[np.ndarray, np.ndarray]:
    """Voxels of the two nodules that two readers enclose, by counting blocks."""
    counts = np.zeros((2, *SHAPE), int)
    counts[0, 2:6, 10:18, 12:20] += 1
    with_hole = np.zeros(SHAPE, int)
    with_hole[3:7, 11:19, 13:22] = 1
    with_hole[4, 13:15, 15:17] = 0
    counts[0] += with_hole
    counts[0, 2:5, 9:17, 12:20] += 1
    near = np.zeros(SHAPE, int)
    near[6:9, 26:31, 31:40] = near[6:8, 25:33, 30:36] = 1
    counts[1] = near
    counts[1, 6:8, 25:33, 30:36] += 1
    return counts[0] >= 2, counts[1] >= 2


def test_consensus_boxes_and_ratings(tmp_path: Path, shards: Callable, made: dict[str, np.ndarray]) -> None:
    dataset = shards("lidc_idri", images=tmp_path / "lidc", min_side=4)
    one, two = expected()
    assert len(dataset) == 2
    for uid, values in made.items():
        np.testing.assert_array_equal(dataset.pixels(uid), values)
        np.testing.assert_array_equal(dataset.mask(uid), (one | two).astype(np.uint8))
        assert dataset.labels(uid) == {"nodule": 1, "malignancy": pytest.approx(14 / 3)}
        boxes = {}
        for label, mask in (("malignant", one), ("benign", two)):  # means of 4, 5, 5 and of 1, 3, 3
            (block,) = scipy.ndimage.find_objects(mask.astype(int))
            boxes[label] = [side.start for side in block] + [side.stop - side.start for side in block]
        assert {label: list(sides) for label, *sides in dataset.boxes(uid)} == boxes


def test_more_readers_must_agree(tmp_path: Path, made: dict[str, np.ndarray]) -> None:
    records = {r.name: r for r in LidcIdri(str(tmp_path / "lidc"), readers=3).records(1)}
    record = records["1.3.6.101"]
    assert [box.label for box in record.boxes] == ["malignant"] and record.labels[0] == 1
    records = {r.name: r for r in LidcIdri(str(tmp_path / "lidc"), readers=4).records(1)}
    record = records["1.3.6.101"]
    assert record.boxes == () and record.labels[0] == 0 and math.isnan(record.labels[1])
    records = {r.name: r for r in LidcIdri(str(tmp_path / "lidc"), readers=1).records(1)}
    assert len(records["1.3.6.102"].boxes) == 3


@pytest.mark.parametrize("seed", range(4))
def test_an_outline_encloses_what_opencv_finds_within(seed: int) -> None:
    """Any blob: grown by a pixel, its border is an outline, and what remains of it is enclosed."""
    rng = np.random.default_rng(seed)
    blob = scipy.ndimage.gaussian_filter(rng.normal(size=(60, 70)), 4 - seed / 3) > 0.02
    parts, _ = scipy.ndimage.label(blob[2:-2, 2:-2])
    blob = np.pad(scipy.ndimage.binary_fill_holes(parts == np.bincount(parts[parts > 0]).argmax()), 2)
    grown = scipy.ndimage.binary_fill_holes(scipy.ndimage.binary_dilation(blob, np.ones((3, 3))))
    (outline,), _ = cv2.findContours(grown.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = [(int(x), int(y)) for x, y in outline[:, 0]]
    inner = grown.copy()
    for x, y in points:
        inner[y, x] = False
    drawn = np.zeros_like(blob)
    columns, rows, _ = _enclosed(points).T
    drawn[rows, columns] = True
    np.testing.assert_array_equal(drawn, inner)
    assert inner.sum() > 50


def test_readings_that_do_not_fit_are_rejected(tmp_path: Path) -> None:
    root = tmp_path / "lidc"
    miniatures_3d.lidc_idri(root)
    outline = ("1.3.6.77", True, miniatures_3d.walk(slice(3, 8), slice(4, 9)))
    miniatures_3d.readings(root / "a.xml", "1.3.6.101", [[(3, [outline])]])
    miniatures_3d.readings(root / "b.xml", "1.3.6.102", [[(3, [outline])]])
    (root / "b.xml").write_text((root / "b.xml").read_text()[:-300])
    write_text(root / "c.xml", "<LidcReadMessage><ResponseHeader")
    reported = {record.name: record.rejected for record in LidcIdri(str(root), readers=2).records(1)}
    assert reported["LIDC-IDRI-0001/1.2.0/1.3.6.101"] == "an outline on a slice that the series lacks"
    assert reported["LIDC-IDRI-0001/1.2.1/1.3.6.102"] == "the XML of the readings is damaged (ParseError)"
    assert reported["c.xml"] == "the XML of the readings is damaged (ParseError)"


def test_a_series_with_a_gap_or_a_copy_is_rejected(tmp_path: Path, made: dict[str, np.ndarray]) -> None:
    folder = tmp_path / "lidc" / "LIDC-IDRI-0001" / "1.2.0" / "1.3.6.101"
    files = sorted(folder.glob("*.dcm"))
    (folder / "1-99.dcm").write_bytes(files[0].read_bytes())
    other = tmp_path / "lidc" / "LIDC-IDRI-0001" / "1.2.1" / "1.3.6.102"
    (other / "1-99.dcm").write_bytes(files[0].read_bytes())
    reported = {record.name: record.rejected for record in LidcIdri(str(tmp_path / "lidc"), readers=2).records(1)}
    assert reported["LIDC-IDRI-0001/1.2.0/1.3.6.101"] == "slices without position, or duplicate slices"
    assert reported["LIDC-IDRI-0001/1.2.1/1.3.6.102"] == "files of several series in one folder"


def test_a_mask_is_what_the_reader_makes_of_one_drawn_on_the_slices(tmp_path: Path) -> None:
    """Slices at uneven distances, two closer than the median: against the volume reader's own way with masks."""
    miniatures_3d.lidc_idri(tmp_path)
    uid, (folder,) = "1.3.6.101", tmp_path.rglob("1.3.6.101")
    locations = np.cumsum([4, 2.5, 1, 2.5, 6, 2.5, 2.5, 4, 2.5])
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient = [-15, -14, round(float(locations[int(ds.SOPInstanceUID.rpartition(".")[2])]), 4)]
        ds.save_as(path)
    drawn, reader = np.zeros(SHAPE, np.uint8), []
    for z in range(9):
        drawn[z, 5 + z : 30 + z, 10 : 30 - z] = 1
        reader.append(stated(uid, [(range(z, z + 1), slice(5 + z, 30 + z), slice(10, 30 - z))], 3, [], False))
    joined = [(3, [outline for _, outlines in reader for outline in outlines])]
    miniatures_3d.readings(tmp_path / "a.xml", uid, [joined, joined])
    (record,) = [r for r in LidcIdri(str(tmp_path), readers=2).records(1) if r.name == uid]
    recipe = Recipe.from_config(ingest.recipe("lidc_idri", images=str(tmp_path)))
    assert isinstance(record.image, Series) and isinstance(record.mask, VoxelRows)
    volume = record.image.read(recipe.reading)
    _, location = place_slices(
        [Plane(np.array([-15, -14, z]), *np.eye(3)[:2], (0.7, 0.7)) for z in locations], (40, 44)
    )
    assert (
        isinstance(location, Stack) and volume.shape[0] != 9 and volume.filled == location.missing == record.missing > 0
    )
    np.testing.assert_array_equal(record.mask.paint(volume), location.straighten(drawn, mask=True))


def test_an_outline_at_an_absurd_place_takes_no_memory(tmp_path: Path) -> None:
    miniatures_3d.lidc_idri(tmp_path)
    for n, location in enumerate((10**9, -5)):
        outline = (f"1.3.6.10{n + 1}.2", True, [(3, 3), (4, 3), (location, 4)])
        miniatures_3d.readings(tmp_path / f"{n}.xml", f"1.3.6.10{n + 1}", [[(3, [outline])]])
    reported = {record.name: record.rejected for record in LidcIdri(str(tmp_path), readers=2).records(1)}
    assert reported["LIDC-IDRI-0001/1.2.0/1.3.6.101"] == reported["LIDC-IDRI-0001/1.2.1/1.3.6.102"]
    assert reported["LIDC-IDRI-0001/1.2.0/1.3.6.101"] == "an outline that leaves the volume"
