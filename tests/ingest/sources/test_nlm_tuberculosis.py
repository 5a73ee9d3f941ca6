"""Montgomery and Shenzhen: united masks, labels from names, readings as people typed them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ingest.sources import miniatures
from PIL import Image

from dira_scale.errors import UserError
from dira_scale.ingest.sources.nlm_tuberculosis import NlmTuberculosis


def test_montgomery_arrives(tmp_path: Path, shards: Callable) -> None:
    made = miniatures.montgomery(tmp_path / "MontgomerySet")
    dataset = shards("montgomery", images=tmp_path / "MontgomerySet")
    assert len(dataset) == 3
    for n, (stem, pixels) in enumerate(made.items()):
        name = f"{stem}.png"
        np.testing.assert_array_equal(dataset.pixels(name), pixels)
        assert dataset.labels(name) == {"tuberculosis": float(stem[-1])}
        if n < 2:
            lungs = np.zeros((56, 64), np.uint8)
            lungs[10 + n : 40, 34:50] = lungs[10 + n : 40, 10:30] = 255
            np.testing.assert_array_equal(dataset.mask(name), lungs)
    assert dataset.mask("MCUCXR_0200_1.png") is None  # half a mask is none
    assert dataset.attributes("MCUCXR_0001_0.png") == {"age": "27", "sex": "F"}
    assert dataset.attributes("MCUCXR_0108_1.png") == {"age": "90", "sex": "M"}
    assert dataset.attributes("MCUCXR_0200_1.png") == {}
    assert dataset.rejected("Thumbs.png") == {"Thumbs.png": "a file name that is none of the dataset's"}


def test_shenzhen_arrives(tmp_path: Path, shards: Callable) -> None:
    made = miniatures.shenzhen(tmp_path / "china")
    dataset = shards("shenzhen_original", images=tmp_path / "china", masks=["mask"])
    told = {stem: dataset.attributes(f"{stem}.png") for stem in made}
    assert list(told.values()) == [
        {"age": "45", "sex": "M"},
        {"age": "24", "sex": "F"},
        {"age": "32", "sex": "F"},
        {"age": "1", "sex": "M"},
    ]
    assert [dataset.labels(f"{stem}.png")["tuberculosis"] for stem in made] == [0, 0, 1, 1]
    assert [dataset.mask(f"{stem}.png") is not None for stem in made] == [True, True, False, False]
    for stem in list(made)[:2]:
        np.testing.assert_array_equal(dataset.mask(f"{stem}.png"), (made[stem] > 120) * np.uint8(255))
    without = shards("shenzhen_original", images=tmp_path / "china")
    assert all(without.mask(f"{stem}.png") is None for stem in made)
    np.testing.assert_array_equal(without.pixels("CHNCXR_0002_0.png"), made["CHNCXR_0002_0"])


def test_folders_that_are_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no folder CXR_png"):
        NlmTuberculosis(str(tmp_path))
    miniatures.montgomery(tmp_path)
    with pytest.raises(UserError, match="holds no folder mask"):
        NlmTuberculosis(str(tmp_path), masks=["mask"])


@pytest.mark.data
def test_real_images_in_the_original_layout(tmp_path: Path, real: Callable[[str], Path], shards: Callable) -> None:
    """Every tenth of Shenzhen's that have masks, at 256 pixels, under the names and in the folders of the originals."""
    source, china = real("shenzhen_256"), tmp_path / "china"
    for folder in ("CXR_png", "mask"):
        (china / folder).mkdir(parents=True)
    paths = sorted((source / "images").iterdir())[::10]
    for path in paths:
        (china / "CXR_png" / path.name).symlink_to(path)
        (china / "mask" / f"{path.stem}_mask.png").symlink_to(source / "masks" / path.name)
    dataset = shards("shenzhen_original", images=china, masks=["mask"])
    assert len(dataset) == len(paths) == 57
    for path in paths:
        np.testing.assert_array_equal(dataset.pixels(path.name), np.asarray(Image.open(path)))
        drawn = np.asarray(Image.open(source / "masks" / path.name)) > 0
        np.testing.assert_array_equal(dataset.mask(path.name) > 0, drawn)
        assert dataset.labels(path.name)["tuberculosis"] == float(path.stem[-1])
