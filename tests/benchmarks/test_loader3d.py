"""bench loader3d: all read the same voxels, turns are timed right, limits do what reading does, a tiny run says so."""

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loader.goals import Goal
from benchmarks.loader.turns import Pace, Spread
from benchmarks.loader3d import inputs as volumes
from benchmarks.loader3d import limits, ours, speed, turns
from benchmarks.loader3d.inputs import VolumeInputs, crop_list, prepare
from benchmarks.loader3d.peers import VARIABLE, Peers
from benchmarks.loader3d.results import DECODING, LIMIT, LOADER, NNUNET, READING, Result, goals
from benchmarks.loader3d.turns import Contender, CropList, check
from dira_scale.bench import main
from dira_scale.errors import UserError
from dira_scale.pixels.bricks import BRICK

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


def test_loader_and_reader_give_the_crops_of_the_list(inputs: VolumeInputs) -> None:
    volumes = inputs.volumes()
    assert sorted(volume.shape for volume in volumes) == sorted(SIDES)
    loader, reader = ours.contenders(inputs)
    for contender in (loader, reader):
        for number, batch in enumerate(contender.read(3, 5), 3):
            for crop, (volume, (z, y, x)) in zip(batch, inputs.crops.batch(number), strict=True):
                assert np.array_equal(crop[0], volumes[volume][z, y, x]) and crop.shape == (1, *SIZE)
        check(contender, inputs.crops, volumes)
    other = CropList(inputs.crops.volume, np.roll(inputs.crops.start, 1, 0), SIZE)
    with pytest.raises(ValueError, match="other crops"):
        check(reader, other, volumes)


def test_limits_replay_what_reading_does(inputs: VolumeInputs) -> None:
    reading, decoding, copying = limits.contenders(inputs)
    bricks = 0
    for _, span in inputs.crops.batch(0):
        overlapped = [(axis.stop - 1) // side - axis.start // side + 1 for axis, side in zip(span, BRICK, strict=True)]
        bricks += int(np.prod(overlapped))
    decodes = decoding.read.args[0][0]  # type: ignore[attr-defined]
    assert (len(decodes), decoding.name) == (bricks, DECODING)
    stored = sum(len(call.args[0]) for call in decodes)
    done = [call() for call in reading.read.args[0][0]]  # type: ignore[attr-defined]
    assert sum(done) >= stored and reading.name == READING  # and the tables of bricks
    assert [len(batch) for batch in copying.read(0, 3)] == [len(SIDES)] * 3


def test_a_turn_counts_crops_by_wall_and_processor_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By clocks that only reading moves: 0.5 s and 0.25 s of a core for a batch of 4 crops; 9 s to clear the cache."""
    clock, cleared = [0.0], list[Path]()
    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(turns, "process_time", lambda: clock[0] / 2)

    def evict(files: list[Path]) -> float:
        cleared.extend(files)
        clock[0] += 9
        return 0.0

    def read(first: int, stop: int) -> Iterator[range]:
        for _ in range(first, stop):
            clock[0] += 0.5
            yield range(4)

    monkeypatch.setattr(turns, "evict", evict)
    contender = Contender("x", "others", read, [tmp_path])  # type: ignore[arg-type]
    assert turns.turn(contender, 1.9, from_disk=False) == Pace(8.0, pytest.approx(62.5)) and not cleared
    assert turns.turn(contender, 1.9, from_disk=True) == Pace(8.0, pytest.approx(62.5)) and cleared == 4 * [tmp_path]
    monkeypatch.setattr(turns, "evict", lambda files: 0.5)
    assert speed.take_turns({"x": lambda *asked: turns.turn(contender, *asked)}, 1, 1.0, True) == (
        {}, {"x": "50.0% of the pages stay in the cache, says mincore"}
    )  # fmt: skip


def test_goals_of_made_up_figures() -> None:
    parts = {name: [Pace(8.0, 100.0)] for name in (limits.READING, limits.DECODING, limits.COPYING)}
    paces = {LOADER: [Pace(2.0, 400.0)], NNUNET: [Pace(1.0, 1000.0)]} | parts
    paces |= speed.one_after_the_other(paces)
    assert paces[LIMIT] == [Pace(pytest.approx(8 / 3), 300.0)] and not speed.one_after_the_other({LOADER: []})
    warm, cold = (goals(Result("c", cold, paces, {}, {}, {}), "96x96x96") for cold in (False, True))
    assert warm[0] == Goal("c, warm: ours / nnU-Net's reader", Spread(2.5, 2.5, 2.5), 1.2) and warm[0].met
    assert cold[0].value.median == 2.0 and [goal.value.median for goal in (warm[1], cold[1])] == [0.75, 0.75]


def environment(folder: Path, script: str) -> Path:
    """An environment whose Python is a shell script."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "python").chmod(0o755)
    return folder


def test_the_other_environment_is_asked_and_its_failure_said(tmp_path: Path) -> None:
    crops = CropList(np.zeros((1, 1), int), np.zeros((1, 1, 3), int), SIZE)
    answers = """echo '{"sizes": {"x": 5}, "packages": {}}'; read line; echo '{"pace": [2.0, 3.0]}'
        read line; echo '{"kept": "a map"}'; cat > /dev/null"""
    peers = Peers(environment(tmp_path / "good", answers), tmp_path, crops)
    assert peers.sizes == {"x": 5} and peers.turn("x", 1.0, False) == Pace(2.0, 3.0)
    with pytest.raises(OSError, match="a map"):
        peers.turn("x", 1.0, True)
    peers.close()
    with pytest.raises(UserError, match="ended: no module"):
        Peers(environment(tmp_path / "bad", "echo no module >&2"), tmp_path, crops)
    for absent in (None, tmp_path):
        with pytest.raises(UserError, match=rf"loader3d\.peers FOLDER makes .* {VARIABLE} names it"):
            Peers(absent, tmp_path, crops)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two small volumes of noise."""
    monkeypatch.setattr(volumes, "SIZES", {"64x64x32": SIZE})
    monkeypatch.setattr(volumes, "sources", lambda folder, *_: [("noise", make(folder / "given"))])


def run(folder: Path, *words: str) -> list[dict]:
    words = ("--sizes", "64x64x32", "--rounds", "1", "--seconds", "0.01", "--folder", str(folder), *words)
    assert main(["loader3d", *words, "--json", str(folder / "a.json")]) == 0
    return json.loads((folder / "a.json").read_text())["results"]


def test_a_tiny_run(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without MONAI, which takes seconds to import, and without the other environment."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(speed, "OFFERS", {name: offer for name, offer in speed.OFFERS.items() if name != "MONAI"})
    cores = os.sched_getaffinity(0)
    warm, cold = run(tmp_path)
    assert os.sched_getaffinity(0) == cores
    assert list(warm["paces"]) == [LOADER, ours.READER, READING, DECODING, limits.COPYING, LIMIT]
    assert {*cold["paces"], *cold["left_out"]} >= {LOADER, READING} and list(warm["left_out"]) == [
        "nnU-Net and torchio"
    ]
    printed = capsys.readouterr().out
    of_limit = warm["paces"][LIMIT][0][1] / warm["paces"][LOADER][0][1]
    assert f"noise, 64x64x32, warm: ours / limit: all three  {of_limit:.2f}" in printed
    assert "without nnU-Net and torchio: python -m benchmarks.loader3d.peers FOLDER" in printed


@pytest.mark.system  # importing MONAI takes seconds
def test_all_contenders_in_a_tiny_run(tiny: None, tmp_path: Path) -> None:
    if not find_spec("monai"):
        pytest.skip("MONAI is not installed")
    warm, cold = run(tmp_path)
    monai = {"MONAI PersistentDataset", "MONAI CacheDataset", "MONAI CacheDataset, copy_cache=False"}
    assert monai <= {*warm["paces"]} and monai & {*cold["paces"]} <= {"MONAI PersistentDataset"}
    if os.environ.get(VARIABLE):
        others = {NNUNET, "nnU-Net's dataloader, float32", "torchio Queue, 1 a volume", "torchio Queue, 16 a volume"}
        assert others <= {*warm["paces"]} and {"nnunetv2", "torchio"} <= {*warm["packages"]}
