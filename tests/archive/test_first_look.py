"""What is said before a conversion writes: lettering in most of the first images, with a sheet to look at; DICOM
objects that are no images; what nobody asked for."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from archive import ingest
from PIL import Image

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main


def films(folder: Path, named: int, count: int = 12, text: str = "DOE^JANE 1951") -> Path:
    """``count`` smooth pictures, ``named`` of them with a text."""
    folder.mkdir()
    y, x = np.mgrid[:200, :240]
    for number in range(count):
        pixels = (60 + 50 * np.sin((x + 9 * number) / 90) * np.cos(y / 70)).astype(np.uint8)
        if number < named:
            cv2.putText(pixels, text, (8, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["recipe=folder", f"recipe.images={tmp_path / 'in'}", f"out={tmp_path / 'out'}", "workers=1", *more]


def test_most_with_lettering_stop_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    films(tmp_path / "in", named=9)
    typed = words(tmp_path, "recipe.burned_in=refuse")
    assert main(typed) == 2 and not (tmp_path / "out").exists()
    line, command = capsys.readouterr().err.splitlines()
    assert "9 of the first 12 images seem to show lettering" in line
    sheet = tmp_path / "out.lettering.png"
    assert Image.open(sheet).size == (1800, 1800) and sheet.stat().st_mode & 0o777 == 0o600
    whole = ["python", "-m", "dira_scale.shard", *words(tmp_path), "recipe.burned_in=tagged"]
    assert command.split() == whole
    assert main(whole[3:]) == 0
    assert sum(ShardedDataset.open(tmp_path / "out").info.counts.values()) == 12


def test_a_sheet_becomes_no_image(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory gets the files that name patients, of a dataset in a store."""
    pytest.importorskip("upath")
    monkeypatch.chdir(films(tmp_path / "in", named=9))
    assert main(["recipe=folder", "recipe.images=.", "out=memory://out", "workers=1"]) == 2
    assert "the working directory, which gets out.rejected.csv, is inside recipe.images=." in capsys.readouterr().err
    assert not list(tmp_path.rglob("out.*"))


@pytest.mark.parametrize(("named", "text", "kept"), [(5, "DOE^JANE 1951", 7), (12, "PA ERECT", 12)])
def test_few_are_refused_alone_and_words_for_views_not_at_all(tmp_path: Path, named: int, text: str, kept: int) -> None:
    films(tmp_path / "in", named, text=text)
    assert main(words(tmp_path)) == 0
    assert sum(ShardedDataset.open(tmp_path / "out").info.counts.values()) == kept
    assert not (tmp_path / "out.lettering.png").exists()


OBJECTS = {
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4", "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "SR": "1.2.840.10008.5.1.4.1.1.88.22", "KO": "1.2.840.10008.5.1.4.1.1.88.59",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
}  # fmt: skip
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


def test_dicom_objects_are_no_images_whatever_their_bits_and_neither_is_what_a_table_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    films(tmp_path / "in", 0)
    eight = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    for kind, uid in OBJECTS.items():  # by class, by modality, as one frame or several
        ingest.dicom(tmp_path / "in" / f"{kind}.dcm", eight.astype(np.uint16), SOPClassUID=uid, Modality="OT")
        ingest.dicom(tmp_path / "in" / f"{kind}2.dcm", eight.astype(np.uint16), Modality=kind)
    ingest.dicom(tmp_path / "in" / "SEG3.dcm", eight.astype(np.uint16), SOPClassUID=LABEL_MAP, Modality="OT")
    (tmp_path / "in" / "SOURCE.md").write_text("whence")
    (tmp_path / "in" / "more.tar.gz").write_bytes(b"packed")
    table = ingest.csv(tmp_path / "in" / "labels.csv", [{"file": f"{n}.png", "sick": n % 2} for n in range(10)])
    assert main(words(tmp_path)) == 0
    assert ShardedDataset.open(tmp_path / "out").info.quarantined == 0
    printed = capsys.readouterr().out
    for kind in OBJECTS:
        assert f"not used: {2 + (kind == 'SEG')} x DICOM {kind}, which is no image ({kind}" in printed
    assert "not used: 2 x a document or table by its name" in printed and "refused" not in printed
    assert "not used: 1 x an archive by its name: unpack it to read the files in it (more.tar.gz)" in printed
    more = [f"recipe.labels={table}", "recipe.columns.patient=null", f"out={tmp_path / 'named'}"]
    assert main(words(tmp_path, *more)) == 0
    dataset, printed = ShardedDataset.open(tmp_path / "named"), capsys.readouterr().out
    assert sum(dataset.info.counts.values()) == 10 and dataset.info.quarantined == 0
    assert re.search(r"not used: 2 x not in labels\.csv \(1\d\.png …\)", printed)
