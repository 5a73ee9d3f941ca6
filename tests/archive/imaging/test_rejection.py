"""A bad file is a verdict; a disk, a network or a memory that fails is not."""

import errno
import io
from pathlib import Path

import pytest
from archive import ingest
from PIL import Image

from dira_scale.archive.deidentify import Hasher
from dira_scale.archive.imaging import read
from dira_scale.archive.imaging.files import opened, opened_for_header, size_of
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.plan import plan_shards
from dira_scale.archive.reading import QuarantinedError, read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import sample_of
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.base.errors import UserError
from dira_scale.base.storage import store
from dira_scale.shard.convert import convert


def failing_disk(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_fails_while_decoding_is_reported_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(ingest.picture(0)).save(tmp_path / "x.png")
    monkeypatch.setattr(read.ImageOps, "exif_transpose", failing_disk)
    with pytest.raises(OSError, match="Input/output error") as caught:
        read.read_image(tmp_path / "x.png", 8)
    assert caught.value.errno == errno.EIO and caught.value.filename == str(tmp_path / "x.png")


def test_a_disk_that_fails_while_listing_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the image would count as a patient of its own."""
    ingest.dicom(tmp_path / "images" / "1.dcm", ingest.picture(0).astype("uint16"))
    monkeypatch.setattr("dira_scale.archive.imaging.dicom.header.read_header", failing_disk)
    with pytest.raises(UserError, match=r"listing the images failed .*Input/output error.*same command again"):
        convert(ingest.recipe("folder", images=str(tmp_path / "images")), tmp_path / "out", workers=1)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR])
@pytest.mark.parametrize("reading", [False, True])
def test_a_file_that_was_listed_and_is_out_of_reach_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reading: bool
) -> None:
    """Rights that ran out or a mount that dropped would otherwise put all the rest into quarantine for good."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, "gone")

    path = tmp_path / "x.png"
    Image.fromarray(ingest.picture(0)).save(path)
    recipe = Recipe.from_config(ingest.recipe("folder", images=str(tmp_path)))
    sizes = path.stat().st_size, None
    found, never_found = (
        next(iter(plan_shards([SourceRecord("x", path, size=size)], recipe, Hasher(b"")))) for size in sizes
    )
    monkeypatch.setattr(*((read.ImageOps, "exif_transpose") if reading else (store, "_open_nonblocking")), fail)
    with pytest.raises(OSError) as caught:
        sample_of(found, read_input(found, recipe), recipe)
    assert caught.value.errno == number and caught.value.filename == str(path)
    with pytest.raises(QuarantinedError):
        sample_of(never_found, read_input(never_found, recipe), recipe)
    number = errno.EINVAL  # a damaged header's offset: still the file's own fault
    with pytest.raises(QuarantinedError, match=r"damaged|cannot be read"):
        sample_of(found, read_input(found, recipe), recipe)


def test_a_file_that_may_not_be_read_is_found_out_when_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    assert size_of(tmp_path / "x.png") == 1
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(RejectedError, match=r"cannot be read .PermissionError"):
        size_of(tmp_path / "x.png")


MACHINE = [OSError(number, "x") for number in (errno.EIO, errno.EMFILE, errno.ENOSPC)] + [MemoryError()]


@pytest.mark.parametrize("error", [UserError("x"), KeyboardInterrupt(), SystemExit(), *MACHINE])
def test_what_would_meet_the_next_file_too_ends_all(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for reading in (opened, opened_for_header):
        with pytest.raises(type(error)), reading(tmp_path / "x"):
            raise error


def test_whatever_else_a_reader_raises_is_the_files_fault(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    for reading in (opened, opened_for_header):
        for error in (NotImplementedError, RecursionError, SystemError, KeyError, AssertionError, StopIteration):
            with pytest.raises(RejectedError, match=f"damaged .*{error.__name__}"), reading(tmp_path / "x"):
                raise error


def test_in_a_store_a_damaged_header_is_not_the_networks_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.locate("memory://damaged/x.dcm", "x")
    path.write_bytes(b"x" * 200)
    with pytest.raises(RejectedError, match="NotImplementedError"), opened_for_header(path):
        raise NotImplementedError

    class Failing(io.BytesIO):
        def read(self, *_: object) -> bytes:
            raise LookupError("whatever a store's library raises")

    monkeypatch.setattr(type(path), "open", lambda *_, **__: Failing())
    with pytest.raises(OSError, match="LookupError") as caught, opened_for_header(path) as file:
        file.read(1)
    assert caught.value.errno == errno.EIO
