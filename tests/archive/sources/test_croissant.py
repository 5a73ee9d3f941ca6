"""croissant.json as ``shard`` writes it: mlcroissant reads the manifest by it, and what it tells of the data is so."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive import ingest
from archive.sources import miniatures_3d
from archive.sources.conftest import Shards
from archive.sources.miniatures_colour import write
from needs import need_extra

from dira_scale.dataset.manifest import MANIFEST_FILE
from dira_scale.dataset.manifest.croissant import croissant

RAI = {  # every property of version 1.0 of the vocabulary
    "dataCollection", "dataCollectionType", "dataCollectionMissingData", "dataCollectionRawData",
    "dataCollectionTimeframe", "dataImputationProtocol", "dataManipulationProtocol", "dataPreprocessingProtocol",
    "dataAnnotationProtocol", "dataAnnotationPlatform", "dataAnnotationAnalysis", "dataReleaseMaintenancePlan",
    "personalSensitiveInformation", "dataSocialImpact", "dataBiases", "dataLimitations", "dataUseCases",
    "annotationsPerItem", "annotatorDemographics", "machineAnnotationTools",
}  # fmt: skip


def grey(shards: Callable[..., Shards], folder: Path) -> Shards:
    source = ingest.source_of(ingest.pngs(folder / "source"))
    (folder / "source/images/im05.png").write_bytes(b"no image")
    return shards("folder", **source, secret=False, codec="jpg", max_side=40, licence="CC-BY-4.0, https://a.org/x")


def colour(shards: Callable[..., Shards], folder: Path) -> Shards:
    for n in range(4):
        write(folder / f"{'ab'[n % 2]}/{n}.png", n)
    return shards("class_folders", images=folder, modality="SM", burned_in="keep", secret=False)


def sequences(shards: Callable[..., Shards], folder: Path) -> Shards:
    miniatures_3d.sessions(folder)
    patterns = {"T1": "*_t1.nii.gz", "FLAIR": "*_flair.nii"}
    return shards("sequences", images=folder, sequences=patterns, secret=False, missing="keep")


def plain(value: Any) -> Any:
    """As both readers give it: text, numbers, lists, None for what is unknown."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | np.ndarray):
        return [plain(each) for each in value]
    return None if value != value else value  # NaN


@pytest.mark.parametrize("made", [grey, colour, sequences])
def test_mlcroissant_reads_every_row_of_the_manifest(
    made: Callable, tmp_path: Path, shards: Callable[..., Shards]
) -> None:
    need_extra("croissant")
    import mlcroissant

    dataset = made(shards, tmp_path).dataset
    file = dataset.root / "croissant.json"
    read = mlcroissant.Dataset(str(file))
    issues = read.metadata.ctx.issues
    lacking = sorted(re.findall(r'Property "\S+/(\w+)" is recommended', "".join(issues.warnings)))
    assert not issues.errors and len(issues.warnings) == 2 and lacking == ["citeAs", "datePublished"]
    assert read.metadata.conforms_to == [f"http://mlcommons.org/croissant/{name}" for name in ("1.1", "RAI/1.0")]
    assert [licence.name for licence in read.metadata.license] == [dataset.info.licence]
    again, written = read.metadata.to_json(), json.loads(file.read_text())
    told = {key: value for key, value in written.items() if key.startswith("rai:")}
    assert told and all(again[key] in (value, *value) for key, value in told.items())  # a list of one is its item
    empty = ["affine"] * (dataset.info.dims == 2) + ["labels"] * (not dataset.info.label_names)
    rows = dataset.table.drop_columns(["boxes", "attributes", *empty]).to_pylist()
    records = list(read.records("samples"))
    for record, row in zip(records, rows, strict=True):
        shown = {key.removeprefix("samples/"): plain(value) for key, value in record.items()}
        assert shown == {key: plain(value) for key, value in row.items()}


def test_what_it_tells_is_what_was_done(tmp_path: Path, shards: Callable[..., Shards]) -> None:
    told: dict[Callable, dict[str, Any]] = {}
    for made in (grey, colour, sequences):
        dataset = made(shards, tmp_path / made.__name__).dataset
        told[made] = content = json.loads((dataset.root / "croissant.json").read_text())
        assert {key.removeprefix("rai:") for key in content if key.startswith("rai:")} <= RAI
        assert len(content.get("variableMeasured", [0])) == dataset.column("channels")[0]
        assert all(name in str(content["recordSet"]) for name in dataset.info.label_names)
        fields = {field["@id"]: field for field in content["recordSet"][0]["field"]}
        assert fields["samples/spacing"]["arrayShape"] == str(dataset.info.dims)
        assert ("samples/affine" in fields) == (dataset.info.dims == 3)
    photos, slides, scans = told.values()
    assert photos["license"]["url"] == "https://spdx.org/licenses/CC-BY-4.0.html" and "url" not in scans["license"]
    first, second, _ = photos["rai:dataPreprocessingProtocol"]
    assert "as jpg (lossy) of 8 bits, the larger side at most 40 pixels;" in first and second.startswith("1 input")
    assert "rai:dataImputationProtocol" not in photos and "interpolated" in scans["rai:dataImputationProtocol"]
    assert slides["variableMeasured"] == ["red", "green", "blue"] and scans["variableMeasured"] == ["T1", "FLAIR"]
    assert any("was not searched" in text for text in slides["rai:personalSensitiveInformation"])
    assert "0, its low and high" in scans["rai:dataCollectionMissingData"]


def test_of_other_origins_it_tells_no_more_than_it_knows(tmp_path: Path, shards: Callable[..., Shards]) -> None:
    dataset = sequences(shards, tmp_path).dataset

    def of(**changed: Any) -> dict[str, Any]:
        return croissant(replace(dataset.info, **changed), dataset.root / MANIFEST_FILE)

    drawn = of(recipe=dataset.info.recipe | {"_target_": "PhantomCT", "attributes": ["sex", "age"]})
    assert "nobody was imaged" in drawn["rai:dataCollection"] and "persons" not in str(drawn)
    assert any("affine, sex, age (at most 90)." in text for text in drawn["rai:personalSensitiveInformation"])
    words = of(recipe={"words_of": "0123"}, label_names=["word"], classes={"word": ["0", "1"]})
    assert "hash 0123" in words["rai:dataCollection"] and "nobody annotated" in words["rai:dataAnnotationProtocol"]
    assert "key" not in str(words["rai:personalSensitiveInformation"]) and "rai:dataImputationProtocol" not in words
    listed = of(patients_in_two_splits=3)
    assert listed["rai:dataLimitations"][0].startswith("3 patients") and "rai:dataLimitations" not in drawn
    odd: list[Any] = [None, 7, "x", ["y"], {"z": [1]}]
    for value in odd:  # the recipe of a stranger's dataset
        recipe = dict.fromkeys([*dataset.info.recipe, "words_of", "colour"], value)
        assert json.dumps(of(recipe=recipe)) and of(recipe={}).keys() <= words.keys() | drawn.keys()
