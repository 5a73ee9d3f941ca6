"""A bad file is a verdict; a disk, a network or a memory that fails is not."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dira_scale.errors import UserError
from dira_scale.ingest import imaging, raster
from dira_scale.ingest.convert import convert
from dira_scale.ingest.verdict import BadImage, judged


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "x"), PermissionError(13, "x"), OSError("truncated"), KeyError()]
)
def test_what_the_file_is_guilty_of_becomes_bad_image(error: Exception) -> None:
    with pytest.raises(BadImage, match=f"damaged .{type(error).__name__}."), judged("damaged ({})"):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x"), OSError(errno.EMFILE, "x"), MemoryError()])
def test_what_the_machine_is_guilty_of_goes_through(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, judged("damaged ({})"):
        raise error
    assert caught.value is error


def failing_disk(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_fails_while_decoding_is_told_with_the_file(
    tmp_path: Path, ingest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(ingest.picture(0)).save(tmp_path / "x.png")
    monkeypatch.setattr(raster.ImageOps, "exif_transpose", failing_disk)
    with pytest.raises(OSError, match="Input/output error") as caught:
        imaging.read_image(tmp_path / "x.png", 8)
    assert caught.value.errno == errno.EIO and caught.value.filename == str(tmp_path / "x.png")


def test_a_disk_that_fails_while_listing_stops_the_run(
    tmp_path: Path, ingest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the image would count as a patient of its own."""
    ingest.dicom(tmp_path / "images" / "1.dcm", ingest.picture(0).astype("uint16"))
    monkeypatch.setattr("dira_scale.ingest.sources.files.read_header", failing_disk)
    with pytest.raises(UserError, match=r"listing the images failed .*Input/output error.*same command again"):
        convert(ingest.recipe("folder", images=str(tmp_path / "images")), tmp_path / "out", workers=1)
