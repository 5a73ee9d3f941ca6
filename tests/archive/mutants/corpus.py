"""All mutants of one kind of input, and a choice of them."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from archive.mutants.bombs import bombs
from archive.mutants.damage import Mutant, damaged, files
from archive.mutants.elements import mutants, radiographs, scans
from archive.mutants.liars import array_liars, dicom_liars, nifti_liars, raster_liars, text_liars
from archive.mutants.places import companions, places
from archive.mutants.valid import series

SEED = 7


def corpus(valid: Mapping[str, Mapping[str, bytes]], array: np.ndarray, outside: Path, count: int) -> Iterator[Mutant]:
    """Mutants of the images (``array`` is 2D) or volumes in ``valid``, 200 of them damaged copies; and ``count`` DICOM
    files in which an element that is read is another.

    Some name ``outside``, a file that nobody may read.
    """
    yield from islice(mutants(radiographs(SEED) if array.ndim == 2 else scans(SEED), SEED), count)
    yield from bombs(array.ndim)
    yield from array_liars(array)
    name = "8.png" if array.ndim == 2 else "x.nii"
    yield from places(name, valid[name][name], outside)
    if array.ndim == 2:
        yield from raster_liars(array)
        yield from dicom_liars(SEED)
    else:
        yield from nifti_liars(valid["x.nii"]["x.nii"])
        yield from text_liars(valid["x.mha"], "x.mha", b" = ")
        yield from text_liars(valid["x.nrrd"], "x.nrrd", b": ")
        values = valid["x.mhd"]["x.raw"]
        yield from companions(valid["x.mhd"]["x.mhd"], values, b"ElementDataFile = ", outside)
        nrrd = valid["x.nrrd"]["x.nrrd"].partition(b"\n\n")[0]
        yield from companions(nrrd + b"\ndata file: x.raw\n\n", values, b"data file: ", outside)
    rng = random.Random(SEED)
    for number in range(200):
        which = list(valid)[number % len(valid)]
        contents = dict(valid[which]) if which != "series" else series(SEED + 1 + number)
        name = rng.choice(list(contents))
        kind, contents[name] = damaged(contents[name], rng)
        yield files(kind, contents)


def chosen(made: Iterator[Mutant], count: int) -> list[Mutant]:
    """``count`` of them, as many of each kind as there are."""
    rng, kinds = random.Random(SEED), defaultdict[str, list[Mutant]](list)
    for mutant in made:
        kinds[mutant.kind].append(mutant)
    for kind in kinds.values():
        rng.shuffle(kind)
    taken = [kind[turn] for turn in range(count) for kind in kinds.values() if turn < len(kind)]
    return taken[:count]
