"""The converter among damaged and hostile files; ``sandbox.py`` has what must hold."""

from pathlib import Path

import pytest
from archive.mutants.corpus import SEED, chosen, corpus
from archive.mutants.elements import elements, radiographs, scans, structures, with_unknown_vr
from archive.mutants.valid import images, picture, volumes, voxels
from archive.sandbox import convert_good, place_all, survived

from dira_scale.archive.imaging.dicom.frames import ELEMENTS, MACROS
from dira_scale.archive.imaging.dicom.header import HEADER
from dira_scale.archive.imaging.dicom.structures import DESCRIBED, ROIS, SEGMENTS
from dira_scale.archive.imaging.volumes.series_index import ALSO, GEOMETRY_AND_IDENTITY, PARTS
from dira_scale.archive.imaging.volumes.slice_position import EXTRA
from dira_scale.predict.dicomseg import GEOMETRY, IDENTITY, UIDS


@pytest.fixture
def outside(sandbox: Path) -> Path:
    """A file that nobody may read."""
    (sandbox / "elsewhere" / "outside").write_bytes(b"Quillfeather's letter")
    return sandbox / "elsewhere" / "outside"


@pytest.mark.parametrize(
    "dims, count",
    [
        (2, 50),
        pytest.param(3, 50, marks=pytest.mark.system),
        *(
            pytest.param(dims, count, marks=[pytest.mark.torture, pytest.mark.timeout(3600)])
            for dims, count in ((2, 8000), (3, 2000))
        ),
    ],
)
def test_mutants_among_good_files(sandbox: Path, outside: Path, dims: int, count: int) -> None:
    inputs, valid = sandbox / "inputs", images if dims == 2 else volumes
    for kind, contents in valid(10**6).items():
        (inputs / "good" / kind).mkdir(parents=True)
        for name, content in contents.items():
            (inputs / "good" / kind / name).write_bytes(content)
    alone = convert_good(sandbox, "out-alone", dims)
    assert alone.rows and not alone.quarantine, alone.quarantine
    made = chosen(corpus(valid(SEED), picture(SEED) if dims == 2 else voxels(SEED), outside, count), count)
    table = survived(sandbox, dims, alone, place_all(made, inputs))
    assert {outcome for what, outcome in table if what == "good, with an odd name"} == {"became samples"}, table


def test_the_mutants_have_every_element_that_is_read() -> None:
    read = {*ELEMENTS, *MACROS, *HEADER.values(), *ALSO.values(), *PARTS, *GEOMETRY_AND_IDENTITY, *EXTRA, *GEOMETRY,
            *IDENTITY, *UIDS, *DESCRIBED, *(each for part in (*SEGMENTS, *ROIS) for each in part), "SegmentationType",
            "ROIContourSequence", "ContourSequence", "ContourData"}  # fmt: skip
    files = [content for made in (radiographs, scans, structures) for content in made(SEED).values()]
    assert not read - {element.keyword for content in files for element in elements(content)}


@pytest.mark.parametrize("dims", [2, 3])
def test_no_element_of_an_unknown_type_ends_a_conversion(sandbox: Path, dims: int) -> None:
    """pydicom raises NotImplementedError when such an element is looked at."""
    whole = radiographs(SEED) if dims == 2 else scans(SEED)
    for number, (keyword, content) in enumerate([("good", next(iter(whole.values()))), *with_unknown_vr(whole)]):
        (sandbox / "inputs" / f"{number:03d}{keyword}").write_bytes(content)
    made = convert_good(sandbox, "out", dims)
    assert made.rows and made.quarantine
    reasons = {row["reason"] for row in made.quarantine.values()}
    assert reasons >= {"damaged or cut short (NotImplementedError)", "DICOM header is damaged (NotImplementedError)"}
