"""Damaged and hostile files among good ones, through the whole converter (what must hold is in ``sandbox.py``)."""

import random
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive import mutants
from archive.mutants import Mutant
from archive.sandbox import convert_good, paths_of, survived

from dira_scale.archive.sources.base import SourceRecord


def mutants_2d(seed: int, scratch: Path, outside: Path) -> list[Mutant]:
    rng, valid = random.Random(seed), mutants.images(seed)
    made = [*mutants.bombs(2), *mutants.places({"8.png": valid["8.png"]}, outside), *mutants.dicom_liars(seed),
            *mutants.raster_liars(seed), *mutants.array_liars(mutants.picture(seed))]  # fmt: skip
    for number in range(200):
        name, content = list(valid.items())[number % len(valid)]
        kind, spoilt = mutants.damaged(content, rng)
        made.append(mutants.file(kind, name, spoilt))
    return made


def mutants_3d(seed: int, scratch: Path, outside: Path) -> list[Mutant]:
    rng, valid = random.Random(seed), mutants.volumes(seed, scratch)
    made = [*mutants.bombs(3), *mutants.places(valid["x.nii"], outside), *mutants.array_liars(mutants.voxels(seed)),
            *mutants.nifti_liars(valid["x.nii"]["x.nii"]), *mutants.text_liars(valid["x.mha"], "x.mha", b" = "),
            *mutants.text_liars(valid["x.nrrd"], "x.nrrd", b": ")]  # fmt: skip
    header, values = valid["x.mhd"]["x.mhd"], valid["x.mhd"]["x.raw"]
    made += mutants.companions(header, values, b"ElementDataFile = ", outside)
    nrrd = valid["x.nrrd"]["x.nrrd"].partition(b"\n\n")[0]
    made += mutants.companions(nrrd + b"\ndata file: x.raw\n\n", values, b"data file: ", outside)
    for number in range(200):
        which = list(valid)[number % len(valid)]
        contents = dict(valid[which]) if which != "series" else mutants.series(seed + 1 + number)
        name = rng.choice(list(contents))
        kind, contents[name] = mutants.damaged(contents[name], rng)
        made.append(mutants.files(kind, contents))
    return made


def chosen(made: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """``count`` of them, as many of each kind as there are."""
    rng, kinds = random.Random(seed), defaultdict(list)
    for mutant in made:
        kinds[mutant.kind].append(mutant)
    for kind in kinds.values():
        rng.shuffle(kind)
    taken: list[Mutant] = []
    while len(taken) < min(count, len(made)):
        taken += [kind.pop() for kind in kinds.values() if kind][: count - len(taken)]
    return taken


def good(dims: int, folder: Path, scratch: Path) -> None:
    """Valid inputs of every kind."""
    folder.mkdir()
    if dims == 2:
        for name, content in mutants.images(10**6).items():
            (folder / name).write_bytes(content)
        return
    for kind, contents in mutants.volumes(10**6, scratch).items():
        (folder / f"of {kind}").mkdir()
        for name, content in contents.items():
            (folder / f"of {kind}" / name).write_bytes(content)


@pytest.mark.parametrize(
    "dims, count",
    [
        (2, 29),  # one of each kind
        (3, 30),
        pytest.param(2, 600, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
        pytest.param(3, 600, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
    ],
)
def test_mutants_among_good_files(sandbox: Path, ingest: SimpleNamespace, dims: int, count: int) -> None:
    inputs, outside = sandbox / "inputs", sandbox / "elsewhere" / "outside"
    outside.write_bytes(b"Quillfeather's letter")
    good(dims, inputs / "good", sandbox / "scratch")
    alone = convert_good(sandbox, "out-alone", dims)
    assert alone.rows and not alone.quarantine, alone.quarantine
    made = chosen((mutants_2d if dims == 2 else mutants_3d)(7, sandbox / "scratch", outside), count, seed=count)
    for number, mutant in enumerate(made):
        (inputs / f"m{number:04d}").mkdir()
        mutant.place(inputs / f"m{number:04d}")

    def kind(record: SourceRecord) -> str:
        below = [path for path in paths_of(record) if path.is_relative_to(inputs)]
        folder = below[0].relative_to(inputs).parts[0] if below else "through a link"
        return made[int(folder[1:])].kind if re.fullmatch(r"m\d{4}", folder) else folder

    _, table = survived(sandbox, ingest, dims, alone, kind)
    for name in {"good, with an odd name"} & {mutant.kind for mutant in made}:
        assert {outcome for what, outcome in table if what == name} == {"became samples"}, table
