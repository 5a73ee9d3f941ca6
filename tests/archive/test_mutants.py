"""The converter among damaged and hostile files; ``sandbox.py`` has what must hold."""

from pathlib import Path

import pytest
from archive.mutants.corpus import SEED, chosen, corpus
from archive.mutants.valid import images, picture, volumes, voxels
from archive.sandbox import convert_good, place_all, survived


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
        *(pytest.param(dims, 600, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]) for dims in (2, 3)),
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
    made = chosen(corpus(valid(SEED), picture(SEED) if dims == 2 else voxels(SEED), outside), count)
    table = survived(sandbox, dims, alone, place_all(made, inputs))
    assert {outcome for what, outcome in table if what == "good, with an odd name"} == {"became samples"}, table
