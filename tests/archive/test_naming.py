"""The name and modality that a dataset has where its recipe leaves them null."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from archive import ingest
from archive.imaging.volumes import make
from omegaconf import OmegaConf
from PIL import Image

from dira_scale.archive.outcome import pretraining
from dira_scale.archive.output import completed
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.shard import convert as converting
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.verify import verify
from dira_scale.shard.repair import repair
from dira_scale.shard.survey import survey_and_print
from dira_scale.train.schedule import stage_plans

UNNAMED = {"name": None, "splits": {"train": 1.0}, "min_side": 1}


def info_of(out: Path) -> DatasetInfo:
    return ShardedDataset.open(out).info


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(ingest.picture(number)).save(folder / f"{number}.png")
    return folder


def test_one_s_own_images_are_named_after_the_folder_of_the_dataset(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    config = ingest.recipe("folder", images=str(images), **UNNAMED)
    out = tmp_path / "ward 7"
    convert(config, out, workers=1)
    assert (info_of(out).name, info_of(out).modality) == ("ward 7", "unknown")
    assert json.loads((out / "croissant.json").read_text())["name"] == "ward 7"
    info = replace(info_of(out), counts={"train": 3000, "val": 1})
    assert pretraining(out, info).endswith(f" experiment=small 'data.shards={out}' 'run=out/runs/ward 7'")
    convert(config | {"name": "films", "modality": "MG"}, tmp_path / "named", workers=1)
    assert (info_of(tmp_path / "named").name, info_of(tmp_path / "named").modality) == ("films", "MG")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(config, ".", workers=1)
    assert info_of(Path()).name == "here"


@pytest.mark.parametrize(
    ("out", "name"),
    [("out/a/", "a"), ("a/../b", "b"), ("a\nb", "a_b"), ("/", "dataset"), ("memory://shards/mine", "mine")],
)
def test_a_name_is_the_last_part_of_the_place(out: str, name: str) -> None:
    location = converting.locate(out, "out")
    assert completed({"name": None, "modality": None}, location) == {"name": name, "modality": None}
    assert completed({"name": "x", "modality": "CT"}, location) == {"name": "x", "modality": "CT"}


def test_a_dataset_that_was_moved_keeps_its_name(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = ingest.recipe("folder", images=str(images), shard_size=2, **UNNAMED)
    convert(config, tmp_path / "before", workers=1)
    whole = ingest.contents(tmp_path / "before")
    out = (tmp_path / "before").rename(tmp_path / "after")
    convert(config, out, workers=1)
    assert "is complete" in capsys.readouterr().out
    assert not verify(out, 1)
    next(out.glob("*.tar")).unlink()
    assert len(repair(config, out, workers=1)) == 1
    assert ingest.contents(out) == whole


def test_the_modality_is_that_of_the_stored_images(tmp_path: Path, images: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (40, 40)).astype(np.uint16)
    config = ingest.recipe("folder", images=str(tmp_path / "dicom"), **UNNAMED)
    ingest.dicom(tmp_path / "dicom" / "a.dcm", pixels, Modality="DX")
    ingest.dicom(tmp_path / "dicom" / "b.dcm", pixels, Modality="MG", BurnedInAnnotation="YES")  # refused
    (tmp_path / "dicom" / "notes.txt").write_text("no image")
    convert(config, tmp_path / "one", workers=1)
    assert info_of(tmp_path / "one").modality == "DX"
    ingest.dicom(tmp_path / "dicom" / "c.dcm", pixels + 1, Modality="CR")
    ingest.dicom(tmp_path / "dicom" / "d.dcm", pixels + 2, Modality="QUILLFEATHER")  # a header may hold any text
    shutil.copy(images / "0.png", tmp_path / "dicom")
    convert(config, tmp_path / "several", workers=1)
    assert info_of(tmp_path / "several").modality == "CR, DX, unknown"
    assert info_of(tmp_path / "several").recipe["modality"] is None
    convert(config | {"modality": "CXR"}, tmp_path / "set", workers=1)
    assert info_of(tmp_path / "set").modality == "CXR"


def test_volumes_whose_headers_do_not_say_it_must_be_given_a_modality(tmp_path: Path) -> None:
    """MR as NIfTI was taken for CT. With DICOM that says CT beside it, the recipe still has to."""
    (tmp_path / "images").mkdir()
    values, config = np.abs(make.smooth((18, 40, 36))), ingest.recipe("volumes", images=str(tmp_path / "images"))
    for name in "ab":
        nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)).to_filename(tmp_path / f"images/{name}.nii")
    requested = (
        "recipe.modality must be given: no DICOM header says .* of [ab].nii and of 1 more are. recipe.modality=CT"
    )
    for attempt in (convert, survey_and_print):
        with pytest.raises(UserError, match=requested):
            attempt(config, *[tmp_path / "out"] * (attempt is convert), workers=1, key_file=None,
                    **{"count": 1} if attempt is survey_and_print else {})  # fmt: skip
    make.series(tmp_path / "images/ct", make.smooth((18, 40, 36)))
    with pytest.raises(UserError, match=requested):
        convert(config, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    convert(config | {"modality": "MR"}, tmp_path / "out", workers=1)  # each volume has its own range
    row = ShardedDataset.open(tmp_path / "out").table.to_pylist()[0]
    assert 0 < row["low"] < row["high"] < values.max()


def test_headers_of_volumes_say_the_modality(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The dataset is the same as with ``recipe.modality``; with volumes of two, one has to be chosen."""
    images, values = tmp_path / "images", make.smooth((18, 40, 36))
    make.series(images / "ct", values, SeriesInstanceUID="1.1", PatientID="A")
    (images / "SOURCE.md").write_text("no volume, so nobody is asked what its values are")
    make.series(images / "dose", values[:2], SeriesInstanceUID="1.2", PatientID="A", Modality="RTDOSE")
    config = ingest.recipe("volumes", images=str(images))
    for out, modality in (("told", None), ("given", "CT")):
        convert(config | {"modality": modality, "name": "x"}, tmp_path / out, workers=1)
    assert ingest.contents(tmp_path / "told") == ingest.contents(tmp_path / "given")
    assert info_of(tmp_path / "told").modality == "CT"
    convert(config | {"name": "x"}, tmp_path / "told", workers=1)
    assert "told is complete" in capsys.readouterr().out
    make.series(images / "mr", values, SeriesInstanceUID="1.3", PatientID="B", Modality="MR")
    with pytest.raises(UserError, match=r"recipe.modality must be given: the DICOM headers say CT \(1 x\), MR \(1 x\)"):
        convert(config, tmp_path / "both", workers=1)


def test_values_that_are_hardly_hounsfield_units_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Told, not refused: CT that was clipped at 0, or that holds one tissue, is CT."""
    (tmp_path / "images").mkdir()
    values = make.smooth((18, 40, 36))
    assert values.min() < 0
    for name, own in (("ct", values), ("clipped", values.clip(0)), ("between", values.clip(-1, 50))):
        nibabel.Nifti1Image(own.astype(np.int16), np.eye(4)).to_filename(tmp_path / f"images/{name}.nii")
    for slices in (None, "axial"):
        config = ingest.recipe("volumes", images=str(tmp_path / "images"), modality="CT", slices=slices)
        convert(config, tmp_path / f"out{slices}", workers=1)
        assert "warning: 2 x values that are hardly Hounsfield units" in capsys.readouterr().out
    survey_and_print(config, workers=1, key_file=None, count=3)
    assert "odd       2 of 3 tried: values that are hardly Hounsfield units" in capsys.readouterr().out


def test_the_steps_of_the_next_command_are_those_that_pretrain_plans() -> None:
    """Which composes and checks the whole configuration: the proposal reads the experiment's file alone."""
    info: Any = SimpleNamespace(
        recipe={"_target_": "x"}, counts={"train": 109, "val": 1}, name="n", dims=2, channels=[], in_colour=False
    )
    words = shlex.split(pretraining(Path("d"), info))[3:]
    config: Any = OmegaConf.to_object(compose("pretrain", words))
    assert sum(plan.steps for plan in stage_plans(config, lambda batch: 109 // batch)) == 2604  # 31 x 84
