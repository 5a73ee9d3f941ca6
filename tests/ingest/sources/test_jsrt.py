"""JSRT's raw files and tables, SCR's outlines."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ingest.sources import miniatures

from dira_scale.errors import UserError
from dira_scale.ingest.sources.jsrt import Jsrt


def test_the_layout_arrives(tmp_path: Path, shards: Callable) -> None:
    made = miniatures.jsrt(tmp_path)
    dataset = shards("jsrt", images=tmp_path / "JSRT", masks=str(tmp_path / "SCR"))
    assert len(dataset) == 3
    for name, values in made.items():
        row = dataset.row(f"{name}.IMG")
        np.testing.assert_array_equal(dataset.pixels(f"{name}.IMG"), 4095 - values)  # all 4096 steps, turned round
        assert (row["low"], row["high"], row["bits"]) == (0, 4095, 16)
        assert row["spacing"] == pytest.approx([0.175, 0.175])
    one, two, none = (f"{name}.IMG" for name in made)
    assert dataset.labels(one) == {"nodule": 1, "malignant": 1} and dataset.labels(two)["malignant"] == 0
    assert dataset.labels(none)["nodule"] == 0 and math.isnan(dataset.labels(none)["malignant"])
    assert dataset.attributes(one) == {"age": "53", "sex": "M"} and dataset.attributes(two) == {"sex": "F"}
    side = 15 / 0.175
    (box,) = dataset.boxes(one)
    assert box[0] == "nodule" and box[5:] == pytest.approx((side, side))
    assert box[2:4] == pytest.approx((692.5 - side / 2, 1634.5 - side / 2), rel=1e-6)
    (box,) = dataset.boxes(two)  # 20 mm around (30, 2040) reach over the left and the lower edge
    assert box[3] == 0 and box[6] == pytest.approx(30.5 + 10 / 0.175)
    assert box[2] + box[5] == pytest.approx(2048) and box[2] == pytest.approx(2040.5 - 10 / 0.175)
    expected = np.zeros((1024, 1024), np.uint8)
    for n, value in ((0, 1), (1, 1), (2, 2), (3, 3), (4, 3)):
        expected[100 + 50 * n : 400 + 50 * n, 200 + 80 * n : 500 + 80 * n] = value
    np.testing.assert_array_equal(dataset.mask(one), np.kron(expected, np.ones((2, 2), np.uint8)))
    assert dataset.mask(two) is None and dataset.mask(none) is None  # no outlines; no heart among them
    again = "NonNodule93images/JPCNN099.IMG"
    assert dataset.rejected("JPCNN002.IMG", "JPCNN003.IMG", again) == {
        "JPCNN002.IMG": "not the 8388608 bytes of a JSRT image",
        "JPCNN003.IMG": "listed, but not there",
        again: "no line in the tables, or met before",
    }


def test_lungs_alone_and_shrunken_in_8_bits(tmp_path: Path, shards: Callable) -> None:
    made = miniatures.jsrt(tmp_path)
    dataset = shards(
        "jsrt", images=tmp_path / "JSRT", masks=str(tmp_path / "SCR"), structures=["lungs"], max_side=1024, bits=8
    )
    expected = np.zeros((1024, 1024), np.uint8)
    for n in (0, 1):
        expected[100 + 50 * n : 400 + 50 * n, 200 + 80 * n : 500 + 80 * n] = 1
    np.testing.assert_array_equal(dataset.mask("JPCLN001.IMG"), expected)
    assert dataset.mask("JPCNN001.IMG") is not None  # its heart is not asked for
    assert dataset.row("JPCLN001.IMG")["spacing"] == pytest.approx([0.35, 0.35])
    assert dataset.boxes("JPCLN001.IMG")[0][5] == pytest.approx(15 / 0.35)
    inner = (4095 - made["JPCLN001"])[200:202, 200:202].mean() / 4095 * 255
    assert dataset.pixels("JPCLN001.IMG")[100, 100] == pytest.approx(inner, abs=2)


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    miniatures.jsrt(tmp_path)
    with pytest.raises(UserError, match=r"recipe\.structures: unknown 'ribs', use lungs, heart, clavicles"):
        Jsrt(str(tmp_path / "JSRT"), None, structures=["ribs"])
    with pytest.raises(UserError, match="SCRX: no such folder"):
        Jsrt(str(tmp_path / "JSRT"), str(tmp_path / "SCRX"))
    table = tmp_path / "JSRT" / "Clinical_Information" / "CLNDAT_EN.txt"
    text = table.read_text()
    table.write_text(text.replace("malignant", "unclear"))
    with pytest.raises(UserError, match=r"malformed line for JPCLN001\.IMG"):
        list(Jsrt(str(tmp_path / "JSRT"), None).records(1))
    table.write_text(text.replace("\t", " "))
    with pytest.raises(UserError, match="expected at least 8 cells, got"):
        list(Jsrt(str(tmp_path / "JSRT"), None).records(1))
    table.unlink()
    with pytest.raises(UserError, match=r"holds no CLNDAT_EN\.TXT at any depth"):
        Jsrt(str(tmp_path / "JSRT"), None)
