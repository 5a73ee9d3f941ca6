"""Damaged files of every reader: read, or refused for a reason that names neither a path nor a value."""

import gzip
import random
import resource
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from archive.imaging.volumes import make
from archive.imaging.volumes.test_segments import read, segmentation
from archive.mutants.damage import damaged
from archive.mutants.elements import mutants, radiographs, structures
from archive.mutants.valid import images, volumes, voxels

from dira_scale.archive.imaging.dicom.header import header_of
from dira_scale.archive.imaging.dicom.structures import structures_in
from dira_scale.archive.imaging.files import opened_for_header
from dira_scale.archive.imaging.read import read_image
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes import read_volume, read_volume_mask
from dira_scale.archive.imaging.volumes.series import Series
from dira_scale.archive.imaging.volumes.series_index import head_of

SEED = 7


def whole(kind: str, folder: Path) -> dict[str, Mapping[str, bytes]]:
    """Inputs of a kind by name, each with its files."""
    if kind == "images":
        return {**images(SEED), **{f"{name}.dcm": {f"{name}.dcm": c} for name, c in radiographs(SEED).items()}}
    if kind == "volumes":
        return dict(volumes(SEED))
    frames = [(1, (0, 0, 2.0 * z), plane > 0) for z, plane in enumerate(voxels(SEED))]
    binary = segmentation(folder / "binary.dcm", frames).read_bytes()
    return {name: {"x.dcm": content} for name, content in {**structures(SEED), "binary": binary}.items()}


def look(kind: str, folder: Path, name: str, files: Mapping[str, bytes], volume: Volume) -> None:
    """List and read an input."""
    path = folder / (name if name in files else next(iter(files)))
    if kind == "images":
        header_of(path)
        read_image(path, 8, "keep")
    elif name == "series":
        heads = [head_of(folder / file) for file in files]
        Series.of(folder, [file for file, head in zip(files, heads, strict=True) if head]).read(
            make.settings(range=None)
        )
    elif kind == "volumes":
        read_volume(path, make.settings(range=None))
    else:
        with opened_for_header(path) as file:
            structures_in(file)
        assert read_volume_mask(path, volume).shape == volume.shape


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("images", 150),
        ("volumes", 400),
        ("masks", 150),
        *(pytest.param(kind, 20_000, marks=pytest.mark.torture) for kind in ("images", "volumes", "masks")),
    ],
)
def test_damage_is_a_reason_and_nothing_else(kind: str, count: int, tmp_path: Path) -> None:
    """Never another error. Of masks, half of the damage is another type, tag or length of an element; of what gzip has
    compressed, half is of what is in it."""
    volume = read(make.series(tmp_path / "ct", make.smooth(np.shape(voxels(SEED))), (0, 0, 0)))
    good, rng, outcomes = whole(kind, tmp_path), random.Random(SEED), Counter[str]()
    changes, before = mutants(structures(SEED), SEED), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(-len(good), count):
        name = [*good][number % len(good)]
        files = dict(good[name])
        if number >= 0:
            file = rng.choice([*files])
            if file.endswith(".gz") and rng.random() < 0.5:
                files[file] = gzip.compress(damaged(gzip.decompress(files[file]), rng)[1], 1)
            else:
                files[file] = damaged(files[file], rng)[1]
        for file, content in files.items():
            (tmp_path / file).write_bytes(content)
        if number >= 0 and kind == "masks" and rng.random() < 0.5:
            next(changes).place(tmp_path)
        try:
            look(kind, tmp_path, name, files, volume)
            outcomes["read"] += 1
        except RejectedError as error:
            assert number >= 0, (name, error)
            assert "/" not in str(error) and len(str(error)) < 120
    assert len(good) < outcomes["read"] < count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
