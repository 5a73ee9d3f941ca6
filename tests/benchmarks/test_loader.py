"""bench loader: contenders make the same pictures, the arithmetic is right, and a tiny run says what it should."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from needs import need_extra
from PIL import Image

from benchmarks.loader import inputs as made
from benchmarks.loader import pagecache, synthetic, turns
from benchmarks.loader.contenders import baselines, beton, dali, dicom, ours
from benchmarks.loader.contenders.base import Contender
from benchmarks.loader.goals import CPU, DECODING, DISTORTED, FILES, RELEASED, Goal, from_peers, goals
from benchmarks.loader.inputs import CASES, VIEWS, LoaderInputs, prepare, sixteen_bits
from benchmarks.loader.opened import opening
from benchmarks.loader.speed import Result
from benchmarks.loader.tables import case_rows
from benchmarks.loader.turns import Spread, ratio
from dira_scale.bench import main
from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import EvalOrder
from dira_scale.pixels import codecs

IMAGES = 2


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of smooth noise in the place of radiographs."""
    folder = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(IMAGES)]
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
        coarse.resize((1024, 1024), Image.Resampling.BICUBIC).save(path)
    return paths


@pytest.fixture(scope="module")
def inputs(originals: list[Path], tmp_path_factory: pytest.TempPathFactory) -> LoaderInputs:
    return prepare(CASES["jpg8-512"], originals, tmp_path_factory.mktemp("case"), 1, IMAGES)


def pictures(contender: Contender, batches: int = 1) -> list[np.ndarray]:
    """Views [2, B, C, 224, 224] of each batch; twice, as a turn must leave nothing behind."""
    try:
        for _ in range(2):
            result = [np.stack([np.asarray(view) for view in views]) for views in contender.run(batches)]
            assert len(result) == batches
        return result
    finally:
        contender.close()


def expected(inputs: LoaderInputs) -> np.ndarray:
    """By the cpu loader, in the order of the rows."""
    spec = LoaderSpec([inputs.dataset], "train", EvalOrder(IMAGES, IMAGES), VIEWS, seed=0, fixed_epoch=0)
    built = ours.choose("cpu").build(spec)
    return np.stack([view.numpy() for view in next(built.iterate(0, 1)).views])


def close_to(result: np.ndarray, wanted: np.ndarray) -> bool:
    """But for the filter: on average within a grey level of 256."""
    return bool(result.shape == wanted.shape and np.abs(result.astype(float) - wanted).mean() < 1.0)


def test_files_and_threads_take_our_crops(inputs: LoaderInputs) -> None:
    plain, released, original = baselines.files(inputs)
    wanted = expected(inputs)
    assert close_to(pictures(plain)[0], wanted)
    assert not close_to(pictures(plain)[0][:, ::-1], wanted)  # the test can tell images apart
    (threads,) = baselines.threads(inputs)
    first, second = pictures(threads, 2)
    assert close_to(first, wanted) and not close_to(second, wanted)  # the next epoch's crops
    for contender in (released, original):
        dataset = contender.run.loader.dataset  # type: ignore[attr-defined]  # without its processes, slow to start
        views = dataset[1].numpy()
        assert views.shape == (2, 3, 224, 224) and views.dtype == np.float32
        assert views.min() >= 0 and views.max() <= 1 and views.std() > 0.05


def test_webdataset_takes_our_crops(inputs: LoaderInputs) -> None:
    """Shards are drawn at random, with replacement: each picture is that of one of the rows."""
    (contender,) = baselines.tars(inputs)
    wanted = expected(inputs)
    for views in pictures(contender, 2):
        for result in np.moveaxis(views, 1, 0):
            assert any(close_to(result, row) for row in np.moveaxis(wanted, 1, 0))


@pytest.mark.parametrize("case", ["jpg8-512", "png16-512"])
def test_dali_takes_our_crops(case: str, originals: list[Path], tmp_path: Path) -> None:
    need_extra("dali")
    inputs = prepare(CASES[case], originals, tmp_path, 1, IMAGES)
    (contender,) = dali.dali(inputs)
    (result,) = pictures(contender)
    assert close_to(result / 257 ** (inputs.case.bits // 16), expected(inputs) / 257 ** (inputs.case.bits // 16))


def test_dicom_files_give_our_crops(originals: list[Path], tmp_path: Path) -> None:
    inputs = prepare(CASES["png16-512"], originals, tmp_path, 1, IMAGES)
    contender, alone = dicom.dicom(inputs)
    (result,), wanted = pictures(contender), expected(inputs)
    # A file without a window: its smallest value is black, so it is stored as 0.
    lowest = np.array([codecs.decode(payload, "png").min() for payload in inputs.payloads()])
    assert np.abs(result + lowest.astype(float)[:, None, None, None] - wanted).mean() < 257
    assert list(alone.run(1)) == [] and alone.kind == "limit"


@pytest.mark.system  # importing FFCV takes seconds
def test_ffcv_makes_two_views(inputs: LoaderInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    need_extra("ffcv")
    from ffcv.pipeline.compiler import Compiler

    monkeypatch.setattr(Compiler, "is_enabled", False)  # compiling takes twenty seconds
    (contender,) = beton.beton(inputs)
    for views in pictures(contender, 3):
        assert views.shape == (2, IMAGES, 3, 224, 224) and views.std() > 10
        assert not np.array_equal(views[0], views[1])


def test_sixteen_bits_have_noise_in_their_low_bits(originals: list[Path], tmp_path: Path) -> None:
    made = codecs.decode((sixteen_bits(originals, tmp_path / "png16") / originals[0].name).read_bytes(), "png")
    levels = codecs.decode(originals[0].read_bytes(), "png")
    inner = (levels > 10) & (levels < 245)  # not clipped
    noise = made.astype(float)[inner] / 257 - levels[inner]
    assert made.dtype == np.uint16 and noise.std() == pytest.approx(1, rel=0.02) and abs(noise.mean()) < 0.02
    assert len(np.unique(made[inner] % 256)) == 256


def test_a_speed_does_not_count_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the runs move: 3 s to start, then 0.25 s or 0.5 s a batch."""
    clock, order = [0.0], list[str]()
    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(turns, "core_seconds", lambda: 0.5 * clock[0])

    def runs(name: str, seconds: float) -> turns.Run:
        def run(batches: int) -> Iterator[int]:
            order.append(name)
            clock[0] += 3 + seconds * batches
            return iter(())

        return run

    assert turns.pace(runs("a", 0.25), batch=10, batches=7) == pytest.approx(
        (10 / 0.25, 1000 * 0.5 * (3 + 13 * 0.25) / 130)
    )
    order.clear()
    result = turns.rates(turns.take_turns({"a": runs("a", 0.25), "b": runs("b", 0.5)}, batch=10, rounds=2, seconds=9.0))
    assert result == {"a": [40.0, 40.0], "b": [20.0, 20.0]}
    assert "".join(order[4:]) == "aabb" + "bbaa"  # after two runs each to learn how long they take


def test_ratios_are_of_rounds() -> None:
    """A slow machine in one round changes both sides and no ratio."""
    assert ratio([20, 10, 30], [10, 5, 10]) == Spread(2, 2, 3)
    assert str(ratio([20, 10, 30], [10, 5, 10])) == "2.00 (2.00-3.00)"


def made_up() -> Result:
    speeds = {
        CPU: [80.0, 160.0, 90.0], DISTORTED: [50.0, 100.0, 60.0], FILES: [40.0, 80.0, 40.0], RELEASED: [4.0, 8.0, 6.0],
        "webdataset": [40.0, 80.0, 45.0], DECODING: [100.0, 200.0, 100.0],
    }  # fmt: skip
    kinds = {CPU: "ours", DISTORTED: "ours", DECODING: "limit"}
    cost = {name: [2000 / speed for speed in result] for name, result in speeds.items()}
    return Result("jpg8-512", 70.0, speeds, cost, {name: kinds.get(name, "others") for name in speeds}, {})


PEERS = {
    "date": "2026-01-02",
    "cases": {
        "jpg8-512": {
            "speeds": {FILES: [10.0, 20.0, 10.0], "litdata": [30.0, 50.0, 30.0]},
            "core_ms": {FILES: [200.0, 200.0, 200.0], "litdata": [50.0, 60.0, 50.0]},
        }
    },
}


def test_goals_of_made_up_figures() -> None:
    assert from_peers(made_up(), PEERS) == {"litdata": [120.0] * 3}  # 3 times the 40 of "files, PIL"
    released, first = goals([made_up()], PEERS)
    assert (released.value, released.needed, released.met) == (Spread(12.5, 10, 12.5), 10, True)
    assert "litdata" in first.text and first.value.median == 90 / 120 and not first.met
    assert goals([made_up()], {})[1].value == Spread(2, 2, 2)  # then webdataset is the best of the others
    assert Goal("", Spread.of([0.9]), 1, below=True).met and not Goal("", Spread.of([1.1]), 1, below=True).met


def test_rows_of_made_up_figures() -> None:
    rows = {row[0]: row[1:] for row in case_rows(made_up(), PEERS)}
    assert rows[CPU] == ("90 (80-160)", "", "", "0.80 (0.80-0.90)", "22.22")
    assert rows["webdataset"] == ("45 (40-80)", "2.00 (2.00-2.00)", "2.00 (2.00-2.00)", "0.40 (0.40-0.45)", "44.44")
    assert rows[RELEASED][1] == "12.50 (10.00-12.50)"  # against ours with distortions
    assert rows["litdata (of 2026-01-02)"][1] == "0.75 (0.67-1.33)" and rows["litdata (of 2026-01-02)"][4] == "12.50"


def test_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the contenders that start processes or compile."""
    from benchmarks.loader import speed as measured

    kept = ("ours: cpu", "FFCV", "threads, OpenCV", "limit: decoding", "limit: resizing")
    monkeypatch.setattr(measured, "OFFERS", {name: measured.OFFERS[name] for name in kept})
    monkeypatch.setenv("DIRA_SCALE_DATA", "")
    monkeypatch.setattr(made, "SIDE", 128)  # of the phantoms
    words = ["--cases", "npy16-512", "--rounds", "1", "--seconds", "0.01", "--images", "2", "--batch", "2"]
    words += ["--cold", "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg")]
    assert main(["loader", *words]) == 0
    printed, result = capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    assert "phantoms" in printed and "without FFCV: " in printed and "two crops of npy16-512" in printed
    (case,) = result["cases"]
    assert set(case["speeds"]) == {"ours: cpu", "threads, OpenCV", "limit: resizing"}
    assert "without limit: decoding: npy is not decoded" in printed
    assert bool(case["cold"]) != bool(case["warm_only"])
    (goal,) = result["goals"]
    assert goal["value"]["median"] == pytest.approx(case["speeds"][CPU][0] / case["speeds"]["limit: resizing"][0])
    assert "<svg" in (tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("words", [["--plot", "a.gif"], ["--images", "3"]])
def test_wrong_flags_are_a_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loader", *words]) == 2
    error = capsys.readouterr().err
    assert (error.count("\n") == 1 and " ".join(words) in error and "expected" in error) or "use more" in error


def test_a_synthetic_dataset_is_read_as_a_real_one(tmp_path: Path) -> None:
    base = synthetic.small(tmp_path / "base")
    result = ShardedDataset.open(synthetic.enlarge(base, tmp_path / "large", 1000, 7))
    assert result.info.counts["train"] == 1000 == len(set(result.column("key").tolist()))
    assert len(set(result.column("shard").tolist())) == 7
    assert result.read(999) == base.read(999 % synthetic.IMAGES)
    resumed = opening(result.root, 2)
    assert (resumed["rows"], resumed["shards"], len(resumed["whole"])) == (1000, 7, 2)
    assert all(a > b for a, b in zip(resumed["whole"], resumed["first"], strict=True))


def test_evicted_pages_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(os.urandom(2**20))
    with path.open("rb") as file:
        assert pagecache._resident(file.fileno()).all()  # just written
        share = pagecache.evict([path])
        assert share == pytest.approx(pagecache._resident(file.fileno()).mean(), abs=0.05)
