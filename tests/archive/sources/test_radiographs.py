"""Masks of published radiographs: JSRT's outlines, SIIM's run lengths, and real images of Shenzhen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from archive.sources import miniatures

from dira_scale.archive.sources.siim_acr import Runs
from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.rejection import RejectedError


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
    inner = made["JPCLN001.IMG"][0][200:202, 200:202].mean() / 4095 * 255
    assert dataset.pixels("JPCLN001.IMG")[100, 100] == pytest.approx(inner, abs=2)


LONG = 2**63 - 1  # two of them overflow an int64


@pytest.mark.parametrize(
    "region",
    ["3", "0 4 x 2", "0 101", "90 5 5 1", "4 -1", "-1 4", "1.5 2", "0 99999999999999999999", f"{LONG} {LONG} 2 1"],
)
def test_runs_that_are_none_are_refused(region: str) -> None:
    image = GreyImage(np.zeros((10, 10), np.uint8), 0, 255, None)
    with pytest.raises(RejectedError, match="run lengths"):
        Runs((region,)).paint(image)


def test_runs_by_hand() -> None:
    """Three rows, two columns: skip one pixel, two of the first column; skip one, the second column's last two."""
    mask = Runs(("1 2 1 2",)).paint(GreyImage(np.zeros((3, 2), np.uint8), 0, 255, None))
    np.testing.assert_array_equal(mask, [[0, 0], [255, 255], [255, 255]])
