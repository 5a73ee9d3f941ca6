"""SIIM-ACR: run lengths against masks that were encoded pixel by pixel."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ingest.sources import miniatures

from dira_scale.errors import UserError
from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.rejection import RejectedError
from dira_scale.ingest.sources.siim_acr import Runs, SiimAcr


def test_the_layout_arrives(tmp_path: Path, shards: Callable, ingest: SimpleNamespace) -> None:
    made = miniatures.siim_acr(tmp_path / "siim", ingest)
    dataset = shards("siim_acr", images=tmp_path / "siim")
    assert len(dataset) == 3
    for n, (uid, (pixels, mask)) in enumerate(made.items()):
        np.testing.assert_array_equal(dataset.mask(uid), mask * np.uint8(255))
        assert dataset.labels(uid) == {"Pneumothorax": float(mask.any())}
        assert dataset.attributes(uid) == {"age": "51", "sex": "F", "view": "PA"}
        assert np.corrcoef(dataset.pixels(uid).ravel(), pixels.ravel())[0, 1] > 0.99
        assert n == 0 or dataset.row(uid)["patient"] != dataset.row("1.2.276.1")["patient"]
    assert dataset.rejected("1.2.276.4", "1.2.276.5") == {
        "1.2.276.4": "no line in the table",
        "1.2.276.5": "listed, but not there",
    }


def test_shrunken_masks_stay_on_their_images(tmp_path: Path, shards: Callable, ingest: SimpleNamespace) -> None:
    made = miniatures.siim_acr(tmp_path / "siim", ingest)
    dataset = shards("siim_acr", images=tmp_path / "siim", max_side=30, min_side=20)
    for uid, (_, mask) in made.items():
        shrunken = dataset.mask(uid)
        assert shrunken.shape == dataset.pixels(uid).shape == (30, 25)
        np.testing.assert_array_equal(shrunken > 0, mask[1::2, 1::2])  # nearest: every second pixel


@pytest.mark.parametrize("region", ["3", "0 4 x 2", "0 101", "90 5 5 1", "4 -1", "-1 4", "1.5 2"])
def test_runs_that_are_none_are_refused(region: str) -> None:
    image = GreyImage(np.zeros((10, 10), np.uint8), 0, 255, None)
    with pytest.raises(RejectedError, match="run lengths"):
        Runs((region,)).paint(image)


def test_runs_by_hand() -> None:
    """Three rows, two columns: skip one pixel, two of the first column; skip one, the second column's last two."""
    mask = Runs(("1 2 1 2",)).paint(GreyImage(np.zeros((3, 2), np.uint8), 0, 255, None))
    np.testing.assert_array_equal(mask, [[0, 0], [255, 255], [255, 255]])


def test_without_a_table_or_its_column_nothing_begins(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no train-rle\.csv and no stage_2_train\.csv"):
        SiimAcr(str(tmp_path))
    miniatures.write_text(tmp_path / "stage_2_train.csv", "ImageId,Pixels")
    with pytest.raises(UserError, match="no column 'EncodedPixels'; did you mean 'Pixels'"):
        list(SiimAcr(str(tmp_path)).records(1))
