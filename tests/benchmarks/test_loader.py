"""bench loader: contenders make the same pictures, the arithmetic is right, and a tiny run says what it should."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import turns
from benchmarks.loader import contenders
from benchmarks.loader import inputs as made
from benchmarks.loader.contenders import CPU, DECODING, RESIZING
from benchmarks.loader.inputs import CASES, VIEWS, LoaderInputs, prepare
from dira_scale.bench import main
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.order import EvalOrder

IMAGES = 2
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # these tests import it too


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


def expected(inputs: LoaderInputs) -> np.ndarray:
    """By the cpu loader, in the order of the rows."""
    spec = LoaderSpec([inputs.dataset], "train", EvalOrder(IMAGES, IMAGES), VIEWS, seed=0, fixed_epoch=0)
    return np.stack([view.numpy() for view in next(contenders.choose("cpu").build(spec).iterate(0, 1)).views])


def close_to(result: np.ndarray, wanted: np.ndarray) -> bool:
    """But for the filter: on average within a grey level of 256."""
    return bool(result.shape == wanted.shape and np.abs(result.astype(float) - wanted).mean() < 1.0)


def test_files_take_our_crops(inputs: LoaderInputs) -> None:
    """Twice, as a turn must leave nothing behind."""
    (plain,) = contenders.files(inputs)
    wanted = expected(inputs)
    try:
        for _ in range(2):
            first, second = (np.stack([view.numpy() for view in views]) for views in plain.run(2))
            assert close_to(first, wanted) and not close_to(second, wanted)  # the next epoch's crops
            assert not close_to(first[:, ::-1], wanted)  # the test can tell images apart
    finally:
        plain.close()


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
    given = {"a": turns.turn_of(runs("a", 0.25), 10), "b": turns.turn_of(runs("b", 0.5), 10)}
    assert turns.rates(turns.take_turns(given, rounds=2, seconds=9.0)) == {"a": [40.0, 40.0], "b": [20.0, 20.0]}
    assert "".join(order) == "aaaa" + "bbbb" + "bb" + "aa"  # the first two runs of each find how long they take


@pytest.mark.system
def test_a_tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the contenders that compile."""
    for name in set(contenders.OFFERS) - {CPU, "files", DECODING, RESIZING}:
        monkeypatch.delitem(contenders.OFFERS, name)
    monkeypatch.setenv("DIRA_SCALE_DATA", "")
    monkeypatch.setattr(made, "SIDE", 128)  # of the phantoms
    words = ["--cases", "npy16-512", "--rounds", "1", "--seconds", "0.01", "--images", "2", "--batch", "2"]
    assert main(["loader", *words, "--json", str(tmp_path / "a.json")]) == 0
    printed, result = capsys.readouterr().out, json.loads((tmp_path / "a.json").read_text())
    assert "phantoms" in printed and "without files: PIL is given PNG and JPEG of 8 bits" in printed
    assert "without litdata, streaming: they are given JPEGs" in printed
    (case,) = result["cases"]
    assert set(case["speeds"]) == {CPU, RESIZING} == set(case["core_ms"])
    assert f"without {DECODING}: npy is not decoded" in printed
