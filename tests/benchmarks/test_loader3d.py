"""bench loader3d: all read the same voxels, turns are timed right, a tiny run says so."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loader3d import contenders, turns
from benchmarks.loader3d import inputs as volumes
from benchmarks.loader3d.contenders import LOADER
from benchmarks.loader3d.inputs import VolumeInputs, crop_list, prepare
from benchmarks.loader3d.turns import Contender, CropList, check
from benchmarks.peers import VARIABLE
from benchmarks.turns import Pace
from dira_scale.bench import main

SIZE = (20, 24, 40)
SIDES = [(40, 70, 90), (36, 64, 64)]


def make(folder: Path) -> list[str]:
    """Two volumes of noise; the words that shard them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, sides in enumerate(SIDES):
        np.save(folder / f"{number}.npy", rng.integers(-1000, 1000, sides).astype(np.int16))
    return ["recipe=volumes", f"recipe.images={folder}", "recipe.modality=CT"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> VolumeInputs:
    folder = tmp_path_factory.mktemp("volumes")
    dataset = prepare(make(folder / "given"), folder)
    return VolumeInputs(dataset, folder, crop_list(dataset, SIZE))


def test_the_loader_gives_the_crops_of_the_list(inputs: VolumeInputs) -> None:
    volumes = inputs.volumes()
    assert sorted(volume.shape for volume in volumes) == sorted(SIDES)
    (loader,) = contenders.ours(inputs)
    for number, batch in zip(range(3), loader.read(), strict=False):
        for crop, (volume, (z, y, x)) in zip(batch, inputs.crops.batch(number), strict=True):
            assert np.array_equal(crop[0], volumes[volume][z, y, x]) and crop.shape == (1, *SIZE)
    check(loader, inputs.crops, volumes)
    other = CropList(inputs.crops.volume, np.roll(inputs.crops.start, 1, 0), SIZE)
    with pytest.raises(ValueError, match="other crops"):
        check(loader, other, volumes)


def test_a_turn_counts_crops_by_wall_and_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By clocks that only reading moves: 0.5 s and 0.25 s of a core for a batch of 4 crops."""
    clock = [0.0]
    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(turns, "process_time", lambda: clock[0] / 2)

    def read() -> Iterator[range]:
        while True:
            clock[0] += 0.5
            yield range(4)

    contender = Contender("x", read)  # type: ignore[arg-type]
    assert turns.turn(contender, 1.9) == Pace(8.0, pytest.approx(62.5))


def test_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two small volumes of noise; without MONAI, which takes seconds to import, and without the other environment."""
    monkeypatch.setattr(volumes, "SIZES", {"64x64x32": SIZE})
    monkeypatch.setattr(volumes, "source", lambda folder, *_: make(folder / "given"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delitem(contenders.OFFERS, "MONAI")
    cores = os.sched_getaffinity(0)
    words = ("--sizes", "64x64x32", "--rounds", "1", "--seconds", "0.01", "--folder", str(tmp_path))
    assert main(["loader3d", *words, "--json", str(tmp_path / "a.json")]) == 0
    (result,) = json.loads((tmp_path / "a.json").read_text())["results"]
    assert os.sched_getaffinity(0) == cores
    assert list(result["paces"]) == [LOADER] and list(result["left_out"]) == ["nnU-Net, medrs and torchio"]
    printed = capsys.readouterr().out
    assert "64x64x32, warm" in printed
    assert "without nnU-Net, medrs and torchio: python -m benchmarks.peers FOLDER" in printed
