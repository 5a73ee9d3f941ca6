"""Visual words against the procedure in plain NumPy, their number at the paper's settings, and what is refused."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from dataset.conftest import row_of, write_dataset
from omegaconf import OmegaConf
from train.data.volumes import make, plain_view

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode, encode
from dira_scale.shard import main as shard
from dira_scale.train.data import random
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.selection import select
from dira_scale.train.models.architecture import architecture
from dira_scale.words import main
from dira_scale.words.config import Words
from dira_scale.words.cubes import WordPlan, cut, make_cube, planned_cubes
from dira_scale.words.make import describe, open_describer
from dira_scale.words.search import (
    CORNERS,
    SIZES,
    SplitVolumes,
    Word,
    boxes,
    open_origin,
    order_of_references,
    search,
)

SMALL = {
    "words": 3, "neighbours.train": 4, "neighbours.val": 2, "size": [6, 8, 8], "margin": [2, 3, 3], "distance": 3,
    "trials": 30, "zoomed.sides": [5, 11], "zoomed.jitter": [-3, 2], "air.share": 0.45, "seed": 5, "batch": 2,
    "model.width": 0.125, "data.size": [16, 16, 16], "init": "random", "shard_size": 5, "workers": 1,
}  # fmt: skip


def typed(**changes: Any) -> list[str]:
    return [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in {**SMALL, **changes}.items()]


def words_of(shards: Any, out: Any = "out", **changes: Any) -> Words:
    config: Any = OmegaConf.to_object(compose("words", [f"data.shards={shards}", f"out={out}", *typed(**changes)]))
    assert isinstance(config, Words)
    return config


def drawn() -> list[np.ndarray]:
    """12 volumes of air with dense blocks, of different sizes; the second is too small for a cube and its margins."""
    rng = np.random.default_rng(3)
    volumes = []
    for number in range(12):
        sides = (11, 18, 19) if number == 1 else (18 + number % 3, 24 + number % 4, 25 - number % 2)
        voxels = rng.integers(-1024, -700, sides, np.int16)
        for _ in range(12):
            z, y, x = (int(rng.integers(0, side - 5)) for side in sides)
            voxels[z : z + 5, y : y + 9, x : x + 9] += 1000
        volumes.append(voxels)
    return volumes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    return make(tmp_path_factory.mktemp("words") / "volumes", drawn(), "b2nd", val=4)


def plainly(
    words: Words,
    train: Mapping[int, np.ndarray],
    val: Mapping[int, np.ndarray],
    a: np.ndarray,
    b: np.ndarray,
    order: Any,
) -> Any:
    """(split, word, volume, resolution) -> its cube: the procedure of the recipe, with a volume for each patient.

    ``train`` and ``val``: volumes or images by their row, in the order of the descriptors ``a`` and ``b``; ``order``:
    the rows of references.
    """
    cubes, corners, axes = {}, [], range(len(words.size))
    fits = lambda v, corner: all(corner[i] + words.size[i] <= v.shape[i] for i in axes)  # noqa: E731
    for reference in order:
        word, volume = len(corners), train[reference]
        if word == words.words:
            break
        for trial in range(words.trials):
            u = random.uniform(words.seed, word, np.array([reference]), np.array([trial]), 0, len(axes), CORNERS)[0]
            spared = [3, 0, 0][-len(axes) :]  # slices above, of volumes
            last = [volume.shape[i] - words.size[i] - spared[i] - 1 - words.margin[i] for i in axes]
            corner = tuple(words.margin[i] + int(u[i] * (last[i] - words.margin[i] + 1)) for i in axes)
            repeated = False
            for old in corners:
                apart = sum((p - q) ** 2 for p, q in zip(old, corner, strict=True))
                repeated = repeated or apart < words.distance**2
            near = []
            for volumes, described in ((train, a), (val, b)):
                far = [((row - a[[*train].index(reference)]) ** 2).sum() for row in described]
                rows = [[*volumes][v] for v in np.argsort(far).tolist()]
                near.append([row for row in rows if fits(volumes[row], corner)])
            if repeated or len(near[0]) < words.neighbours.train or len(near[1]) < words.neighbours.val:
                continue
            total = 0.0
            for voxel in itertools.product(*map(range, words.size)) if words.air.hu is not None else ():
                z, y, x = (corner[i] + voxel[i] for i in axes)
                k = next((k for k in range(3) if volume[z + k, y, x] >= words.air.hu), 2)
                total += 1 - k / 2
            if total <= words.air.share * math.prod(words.size):
                corners.append(corner)
                break
        else:
            continue
        whole = tuple(slice(corner[i], corner[i] + words.size[i]) for i in axes)
        for v in near[1][: words.neighbours.val]:
            cubes["val", word, v, 1] = val[v][whole]
        (*above, y, x), (smallest, largest), (left, right) = corner, words.zoomed.sides, words.zoomed.jitter
        for v in near[0][: words.neighbours.train]:
            cubes["train", word, v, 1] = train[v][whole]
            for resolution in (2, 3):
                for attempt in range(1000):
                    u = random.uniform(words.seed, word, np.array([v]), np.array([attempt]), resolution - 1, 3, SIZES)[
                        0
                    ]
                    side, dy, dx = (
                        low + int(u[i] * (high - low + 1))
                        for i, (low, high) in enumerate([(smallest, largest), (left, right), (left, right)])
                    )
                    height, width = train[v].shape[-2:]
                    if min(y + dy, x + dx) >= 0 and y + dy + side <= height and x + dx + side <= width:
                        break
                depth = words.size[:-2] or [1]
                box = (*(above or [0]), y + dy, x + dx, *depth, side, side)
                voxels = train[v].reshape(-1, height, width)
                zoomed = np.rint(plain_view(voxels, box, 3 * [False], (*depth, *words.size[-2:])))
                cubes["train", word, v, resolution] = zoomed.reshape(words.size)
    return cubes


def test_each_cube_is_that_of_the_procedure_written_plainly(dataset: ShardedDataset) -> None:
    words = words_of(dataset.root)
    _, train, val = open_origin(words)
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(8, 6)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    reader, trials = SampleReader(Samples([dataset], "train")), Counter[int]()

    def read(volume: int, corner: Any, size: Any) -> np.ndarray:
        trials[volume] += 1
        return cut(reader, volume, (*corner, *size), size)

    discovered = search(words, train, val, descriptors, read)
    assert all(word.train[0] == word.reference for word in discovered)
    assert trials.total() > len(discovered)  # the filter refused some
    ours = made(words, discovered, dataset, train, val)
    volumes = dict(enumerate(drawn()))
    splits = {row: volumes[row] for row in range(8)}, {row: volumes[row] for row in range(8, 12)}
    theirs = plainly(words, *splits, *descriptors, order_of_references(words, train))
    assert ours.keys() == theirs.keys() and len(ours) == 3 * (4 * 3 + 2)
    for name, voxels in theirs.items():
        np.testing.assert_allclose(ours[name], voxels, atol=int(name[3] > 1) * 1, err_msg=str(name))


def made(words: Words, discovered: list[Word], dataset: ShardedDataset, train: SplitVolumes, val: SplitVolumes) -> Any:
    """(split, word, row, resolution) -> the cube that is stored."""
    plan, cubes = WordPlan(dataset, planned_cubes(words, discovered, dataset, train, val), words.shard_size), {}
    for file in plan.shards:
        for item in plan.items(file):
            (sample,) = make_cube(item, str(dataset.root), tuple(words.size))
            cube, codec = item.cube, sample.row["codec"]
            assert file.startswith(cube.split) and sample.row["labels"] == [cube.word]
            assert sample.row["patient"] == dataset.cell("patient", cube.row)
            name = cube.split, cube.word, cube.row, cube.resolution
            cubes[name] = decode(sample.payload, codec, tuple(words.size))
    return cubes


PATCHES = {"size": [8, 8], "margin": [2, 3], "air.hu": None, "data.size": [16, 16]}


@pytest.mark.parametrize("bits", [8, 16])
def test_each_patch_of_images_is_that_of_the_procedure(tmp_path: Path, bits: int) -> None:
    """Words are searched among three quarters of the training patients."""
    rng, rows, shard, images = np.random.default_rng(bits), [], b"", {}
    for number in range(14):
        sides = (12, 12) if number == 1 else (24 + number % 4, 25 - number % 2)
        images[number] = rng.integers(0, 2**bits, sides, f"uint{bits}")
        payload = encode(images[number], "png")
        facts = {"patient": f"p{number}", "codec": "png", "offset": len(shard), "size": len(payload), "bits": bits,
                 "xxh3": xxhash.xxh3_64_hexdigest(payload), "labels": [0.0], "low": 0.0, "high": 2.0**bits - 1,
                 "height": sides[0], "width": sides[1], "channels": 1, "spacing": [0.2, 0.1]}  # fmt: skip
        rows.append(row_of(f"i{number}", split="train" if number < 10 else "val", **facts))
        shard += payload
    dataset = write_dataset(tmp_path / "images", rows, {"train-000000.tar": shard})
    words = words_of(dataset.root, **{**PATCHES, "data.fraction": 0.75})
    _, train, val = open_origin(words)
    chosen = select([dataset], "train", [1.0], 0.75, 0, None)
    assert chosen is not None and train.rows.tolist() == chosen.samples.tolist() and len(val.rows) == 4
    descriptors = rng.normal(size=(len(train.rows), 6)), rng.normal(size=(4, 6))
    ours = made(words, search(words, train, val, descriptors, lambda *_: np.empty(0)), dataset, train, val)
    splits = {int(row): images[row] for row in train.rows}, {row: images[row] for row in range(10, 14)}
    references = [int(train.rows[number]) for number in order_of_references(words, train)]
    theirs = plainly(words, *splits, *descriptors, references)
    assert ours.keys() == theirs.keys() and len(ours) == 3 * (4 * 3 + 2)
    for name, pixels in theirs.items():
        assert ours[name].dtype == images[0].dtype
        np.testing.assert_allclose(ours[name].astype(int), pixels.astype(int), atol=int(name[3] > 1), err_msg=str(name))


@pytest.mark.system
def test_words_of_images_are_a_dataset_of_images(tmp_path: Path) -> None:
    assert shard(["recipe=phantom_small", f"out={tmp_path / 'images'}", "recipe.patients=16", "recipe.size=64",
                  "recipe.splits={train: 0.7, val: 0.3, test: 0}", "workers=1"]) == 0  # fmt: skip
    few = {"words": 2, "neighbours.train": 3, "neighbours.val": 1, "size": [16, 16], "zoomed.sides": [12, 20]}
    some = PATCHES | few | {"model": "unet", "model.encoder": "resnet10t", "data.size": [32, 32]}
    given = [word for word in typed(**some) if not word.startswith("model.width")]
    out = tmp_path / "words"
    assert main([f"data.shards={tmp_path / 'images'}", f"out={out}", *given]) == 0
    made = ShardedDataset.open(out)
    assert (made.info.dims, made.info.codec, made.info.counts) == (2, "png", {"train": 18, "val": 2})
    assert made.info.classes == {"word": ["0", "1"]} and made.shape(0) == (16, 16)


def test_a_cube_lies_in_the_patient_where_it_was_cut_out(dataset: ShardedDataset) -> None:
    words = words_of(dataset.root)
    _, train, val = open_origin(words)
    descriptors = np.arange(8.0)[:, None], np.arange(4.0)[:, None]
    discovered = search(words, train, val, descriptors, lambda *_: np.full((8, 8, 8), -1000, np.int16))
    plan = WordPlan(dataset, planned_cubes(words, discovered, dataset, train, val), 100)
    for item in plan.items("train-000000.tar"):
        (sample,) = make_cube(item, str(dataset.root), tuple(words.size))
        (z, y, x, *extents), affine = item.cube.box, np.array(sample.row["affine"]).reshape(4, 4)
        step = [e / n for e, n in zip(extents, words.size, strict=True)]
        assert sample.row["spacing"] == pytest.approx([2 * step[0], step[1], step[2]])
        edge = affine @ [-0.5, -0.5, -0.5, 1]  # the outer corner of the first voxel
        assert edge[:3] == pytest.approx([x - 0.5, y - 0.5, 2 * (z - 0.5)])


def test_the_papers_settings_give_its_numbers() -> None:
    """445 and 178 volumes of LUNA16's sizes, none of which is read."""
    defaults = ["init=random", "data.shards=x", "out=y"]
    words: Any = OmegaConf.to_object(compose("words", defaults))
    rng = np.random.default_rng(0)

    def volumes(count: int, first: int) -> SplitVolumes:
        sides = np.stack([rng.integers(60, 600, count), np.full(count, 512), np.full(count, 512)], 1)
        return SplitVolumes(np.arange(count), np.arange(first, first + count), sides, np.arange(count))

    train, val = volumes(445, 0), volumes(178, 445)
    descriptors = rng.normal(size=(445, 512)), rng.normal(size=(178, 512))
    air = np.full((34, 64, 64), -1000, np.int16)
    discovered = search(words, train, val, descriptors, lambda *_: air)
    corners = np.array([word.corner for word in discovered], float)
    apart = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    assert apart[~np.eye(44, dtype=bool)].min() >= 5
    assert len({word.reference for word in discovered}) == 44
    dataset: Any = SimpleNamespace(cell=lambda _, row: f"{row:024x}")
    cubes = planned_cubes(words, discovered, dataset, train, val)
    assert Counter(cube.split for cube in cubes) == {"train": 26_400, "val": 1_320}
    assert len({cube.key for cube in cubes}) == len(cubes)
    assert set(Counter((cube.word, cube.resolution) for cube in cubes if cube.split == "train").values()) == {200}
    sides = np.concatenate([train.sides, val.sides])[[cube.row for cube in cubes]]
    boxes = np.array([cube.box for cube in cubes])
    assert (boxes[:, :3] >= 0).all() and (boxes[:, :3] + boxes[:, 3:] <= sides).all()  # none is truncated
    zoomed = boxes[[cube.resolution > 1 for cube in cubes]]
    assert zoomed[:, 4].min() == 50 and zoomed[:, 4].max() == 79 and (zoomed[:, 4] == zoomed[:, 5]).all()


def test_descriptors_are_the_means_of_the_last_map_and_are_kept(dataset: ShardedDataset, tmp_path: Path) -> None:
    words = words_of(dataset.root)
    _, train, val = open_origin(words)
    describer, kept = open_describer(words), tmp_path / "new" / "kept"
    first = describe(describer, dataset, (train, val), words, kept)
    torch.manual_seed(5)
    encoder = architecture(OmegaConf.to_container(OmegaConf.structured(words.model))).build_encoder((16, 16, 16)).eval()  # type: ignore[arg-type]
    views = [plain_view(v, (0, 0, 0, *v.shape), 3 * [False], (16, 16, 16)) for v in drawn()]
    images = torch.tensor(np.stack(views), dtype=torch.float32)[:, None].add(1024).div(4024).clamp(0, 1)
    with torch.no_grad():
        expected = encoder(images)[-1].mean((2, 3, 4)).numpy()
    np.testing.assert_allclose(np.concatenate(first), expected, atol=2e-3)
    describer.encoder.forward = None  # type: ignore[method-assign,assignment]  # is not called again
    np.testing.assert_array_equal(
        np.concatenate(describe(describer, dataset, (train, val), words, kept)), np.concatenate(first)
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"neighbours.train": 9}, "neighbours.train=9: split 'train' of "),
        ({"neighbours.val": 5}, "neighbours.val=5: split 'val' of "),
        ({"words": 8}, "has 7 patients with volumes that hold a word and its margins, as 1 of its 8 volumes is too "
                       "small, such as v1 (11 x 18 x 19)"),
        ({"size": [60, 8, 8]}, "as 8 of its 8 volumes are too small, such as v0"),
        ({"data.val_split": "test"}, "data.val_split=test: "),
        ({"data.split": "val"}, "data.val_split=val is data.split too"),
        ({"init": None}, "init=null: expected one of run=… and init=…"),
        ({"size": [8]}, "size=[8]: expected depth, height and width; of images height and width"),
        ({"size": [8, 8]}, "data.size=[16, 16, 16]: expected height and width, as size=[8, 8] has"),
        ({"margin": [2, 2]}, "margin=[2, 2]: expected depth, height and width, as size=[6, 8, 8] has"),
        (PATCHES | {"size": [8, 9]}, "size=[8, 9]: expected one side twice: images are cut"),
        (PATCHES | {"air.hu": -150}, "air.hu=-150.0: expected null: images have no Hounsfield units"),
        (PATCHES, "holds volumes, and the search for words of size=[8, 8] reads images: "),
        ({"zoomed.cubes": 300}, "zoomed.cubes=300: expected a whole number from 0 to 255"),
        ({"zoomed.sides": [9, 11]}, "zoomed.sides=[9, 11]: expected the smallest at most 8"),
        ({"zoomed.jitter": [1, 3]}, "zoomed.jitter=[1, 3]: expected the smallest and the largest, around 0"),
    ],
)  # fmt: skip
def test_what_cannot_give_words_is_reported_in_a_line(
    dataset: ShardedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], text: str
) -> None:
    assert main([f"data.shards={dataset.root}", f"out={tmp_path / 'out'}", *typed(**changes)]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_modality_without_hounsfield_units_has_no_filter_of_air(
    dataset: ShardedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = replace(dataset.info, modality="MR")
    monkeypatch.setattr(dataset, "info", info)
    monkeypatch.setattr(ShardedDataset, "open", lambda *_: dataset)
    with pytest.raises(UserError, match=r"no Hounsfield units: add air\.hu=null"):
        open_origin(words_of(dataset.root))


def test_a_patient_gives_one_reference_and_one_cube(dataset: ShardedDataset) -> None:
    """The nearest of its volumes that holds the cube; patients by these."""
    rng = np.random.default_rng(2)
    sides = np.array([(20, 12 + 18 * (number % 2), 24) for number in range(12)])  # one of two is narrow
    train = SplitVolumes(np.arange(12), np.arange(12), sides, np.repeat(np.arange(6), 2))
    val = SplitVolumes(np.arange(6), np.arange(12, 18), sides[:6], np.repeat(np.arange(3), 2))
    descriptors = rng.random((12, 3)), rng.random((6, 3))
    words = words_of(dataset.root, **{"words": 4, "distance": 0, "neighbours.train": 4, "neighbours.val": 2})
    found = search(words, train, val, descriptors, lambda *_: np.full((10, 8, 8), -1000, np.int16))
    assert len({train.patients[word.reference] for word in found}) == len(found) == 4
    skipped = 0
    for word in found:
        for volumes, chosen, described, count in (
            (train, word.train, descriptors[0], 4), (val, word.val, descriptors[1], 2),
        ):  # fmt: skip
            distance = np.linalg.norm(described - descriptors[0][word.reference], axis=1)
            nearest: dict[int, int] = {}
            for volume in sorted(range(len(distance)), key=lambda volume: distance[volume]):
                if all(word.corner[axis] + 8 <= volumes.sides[volume, axis] for axis in range(3)):
                    nearest.setdefault(volumes.patients[volume], volume)
                else:
                    skipped += 1
            assert [*map(int, chosen)] == [*nearest.values()][:count]
    assert skipped, "some volumes are too narrow for the corners that were drawn"


def test_zooms_that_hardly_ever_fit_are_reported(dataset: ShardedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(dataset.root, **{"zoomed.sides": [8, 10], "zoomed.jitter": [-200000, 200000]})
    _, train, _ = open_origin(words)
    monkeypatch.setattr(random, "uniform", lambda *_, **__: np.zeros((1, 3)))  # draws of the farthest crop
    monkeypatch.setattr("dira_scale.words.search.MOST_DRAWS", 2**8)
    with pytest.raises(UserError, match=r"zoomed.jitter=\[-200000, 200000\]: hardly any crop"):
        boxes(words, 0, (0, 2, 2), train, np.array([0]), 1)


def test_descriptors_of_other_splits_are_not_taken(
    dataset: ShardedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search that found nothing keeps them."""
    swapped = {"data.split": "val", "data.val_split": "train", "words": 2, "neighbours.train": 2, "neighbours.val": 2}
    used, fresh = (tmp_path / name for name in ("used", "fresh"))
    failing = typed(**{"air.share": 1e-9, "words": 2, "neighbours.train": 2, "neighbours.val": 2})
    assert main([f"data.shards={dataset.root}", f"out={used}", *failing]) == 2
    assert "were found" in capsys.readouterr().err
    for out in (used, fresh):
        assert main([f"data.shards={dataset.root}", f"out={out}", *typed(**swapped)]) == 0
    for file in fresh.iterdir():
        assert (used / file.name).read_bytes() == file.read_bytes(), file.name


def test_too_few_places_are_reported(dataset: ShardedDataset) -> None:
    words = words_of(dataset.root)
    _, train, val = open_origin(words)
    with pytest.raises(UserError, match="words=3: only 0 were found in all references, 30 trials in each"):
        search(words, train, val, (np.zeros((8, 1)), np.zeros((4, 1))), lambda *_: np.full((8, 8, 8), 100, np.int16))


@pytest.mark.system
def test_killed_and_resumed_it_is_the_same_byte_for_byte(
    dataset: ShardedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, a, b = [f"data.shards={dataset.root}", *typed(shard_size=2)], tmp_path / "a", tmp_path / "b"
    assert main([*words, f"out={a}"]) == 0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([sys.executable, "-m", "dira_scale.words", *words, f"out={b}"], env=environment)
    end = time.monotonic() + 120
    while not (b / ".partial" / "train-000003.parquet").exists():
        assert killed.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (b / "manifest.parquet").exists()
    assert main([*words, f"out={b}", "workers=2"]) == 0
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (a, b)]
    assert files[0] == files[1]
    made = ShardedDataset.open(a)
    assert made.info.counts == {"train": 36, "val": 6} and made.info.classes == {"word": ["0", "1", "2"]}
    assert made.info.dims == 3
    capsys.readouterr()
    assert main([*words, f"out={b}"]) == 0 and "3 words" in capsys.readouterr().out
    assert main([*words, f"out={b}", "seed=6"]) == 2 and "another recipe" in capsys.readouterr().err
