"""Planted copies are found with their keys, through every change; strangers are not. Patients in two splits too."""

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from archive import ingest
from PIL import Image

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.audit import candidates
from dira_scale.shard.curate.audit.twins import MIN_CORRELATION, compare, near_twins
from dira_scale.shard.curate.balance import duplicates


def body(seed: int) -> np.ndarray:
    """float32 [160, 160] in [0, 1]: what all have in common, and structures of one's own at all scales."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    common = np.exp(-((np.abs(x) - 0.45) ** 2) / 0.06 - y**2 / 0.4)
    own = sum(cv2.GaussianBlur(rng.normal(size=(160, 160)), (0, 0), s) * s for s in (2, 4, 8, 16))
    return np.clip(0.5 + 0.3 * common + 0.12 * own, 0, 1).astype(np.float32)


def recompressed(picture: np.ndarray, quality: int = 50) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255


def halved(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


CHANGES = {
    "recompressed": recompressed,
    "halved": halved,
    "brightened": lambda p: np.clip(p + 0.1, 0, 1),
    "contrasted": lambda p: np.clip(1.25 * (p - 0.5) + 0.5, 0, 1),
    "cropped": lambda p: p[2:-1, 1:-2],
    "mirrored": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "turned by 180°": lambda p: p[::-1, ::-1],
    "all at once": lambda p: recompressed(halved(np.clip(1.1 * p[2:-1, 1:-2] - 0.05, 0, 1)))[:, ::-1],
}


def small(picture: np.ndarray) -> np.ndarray:
    resized = cv2.resize(np.ascontiguousarray(picture), (64, 64), interpolation=cv2.INTER_AREA)
    return resized[None].astype(np.float16)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_the_same(change: str) -> None:
    flips = [compare(small(body(n)), small(CHANGES[change](body(n)))) for n in range(5)]
    assert min(alike for _, alike in flips) >= MIN_CORRELATION
    expected = {"mirrored": 1, "upside down": 2, "turned by 180°": 3, "all at once": 1}.get(change, 0)
    assert {flip for flip, _ in flips} == {expected}


def test_all_pairs_of_many_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 rows: pairs within a block, across two, and of the last, which is not full."""
    monkeypatch.setattr(candidates, "ROWS", 16)
    pictures = [small(body(n)) for n in range(70)]
    planted = {(0, 69): "cropped", (3, 5): "mirrored", (15, 16): "recompressed", (20, 64): "halved"}
    planted |= {(30, 31): "upside down", (40, 60): "turned by 180°"}
    for (one, other), change in planted.items():
        pictures[other] = small(CHANGES[change](body(one)))
    pictures[7] = pictures[8] = np.zeros((1, 64, 64), np.float16)  # of nothing there are no copies
    stacked = np.stack(pictures)
    assert {(t.image, t.other) for t in near_twins(stacked, np.arange(70), 70)} == set(planted)
    group = np.arange(70)
    group[5] = 3  # two of one patient
    assert {(t.image, t.other) for t in near_twins(stacked, group, 70)} == set(planted) - {(3, 5)}
    assert {(t.image, t.other) for t in near_twins(stacked, np.arange(70), 10)} == {(0, 69), (3, 5)}


@pytest.mark.parametrize(("cell", "probes"), [(10, 4), (1, 1)])
def test_within_cells_as_many_as_is_said(monkeypatch: pytest.MonkeyPatch, cell: int, probes: int) -> None:
    """Beside all pairs; of small cells and one probe some pairs are missed."""
    pictures = [small(body(n)) for n in range(60)]
    for number, change in enumerate([*CHANGES.values()] * 2):
        pictures[59 - number] = small(change(body(number)))
    stacked, group, said = np.stack(pictures), np.arange(60), list[str]()
    every = [near_twins(stacked, group, queries) for queries in (60, 12)]
    assert [len(pairs) for pairs in every] == [18, 12]
    for name, module, value in (("EXACT", candidates, 30), ("PROBES", candidates, probes), ("ROWS", candidates, 16)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(duplicates, "CELL", cell)
    found = [near_twins(stacked, group, queries, say=said.append) for queries in (60, 12)]
    assert all({*some} <= {*all_} for some, all_ in zip(found, every, strict=True))
    assert (found == every) if cell == 10 else len(found[0]) < 18
    assert said == [
        f"searched within cells: of the {len(all_)} near-duplicates of {queries} random images, "
        f"{100 * len(some) / len(all_):.1f} % were found"
        for some, all_, queries in zip(found, every, (60, 12), strict=True)
    ]


@pytest.fixture
def two(tmp_path: Path) -> SimpleNamespace:
    """Two datasets of one archive: a copy within the first, a mirrored one in the second, a patient in both."""
    pictures = {f"a{n}.png": body(n) for n in range(12)} | {f"b{n}.png": body(100 + n) for n in range(6)}
    pictures["a11.png"], pictures["b5.png"] = pictures["a0.png"], pictures["a4.png"][:, ::-1]
    for name in "ab":
        folder = tmp_path / f"{name}_images"
        folder.mkdir()
        rows = []
        for file, picture in pictures.items():
            if file.startswith(name):
                Image.fromarray((picture * 255).astype(np.uint8)).save(folder / file)
                number = int(file[1:-4])
                split = "test" if name == "b" or number % 4 == 3 else "train"
                rows.append({"file": file, "patient": "P2" if file == "b2.png" else f"P-{file}", "split": split})
                if file == "a2.png":
                    rows[-1]["patient"] = "P2"
        keys = {"labels": str(ingest.csv(tmp_path / f"{name}.csv", rows)), "images": str(folder)}
        columns = {"file": "file", "patient": "patient", "split": "split"}
        convert(ingest.recipe("folder", columns=columns, label_columns=[], **keys), tmp_path / name, workers=1)
    return SimpleNamespace(a=tmp_path / "a", b=tmp_path / "b")


def test_the_command_names_copies_and_shared_patients(
    two: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", f"path={two.a}", f"against={two.b}", "workers=1"]) == 1
    shown = capsys.readouterr().out
    assert "patients in two splits: 1\n  a train and b test: 1 x\n" in shown and "the audit FAILED" in shown
    assert "a train and b test, mirrored: 1 x" in shown
    rows = list(csv.reader((tmp_path / "a.audit.csv").open()))
    pairs = {frozenset(row[-2:]): row[1:4] for row in rows if row[0] == "near-duplicate"}
    a, b = (ShardedDataset.open(location).table.to_pylist() for location in (two.a, two.b))
    (same,) = [{row["key"] for row in a if row["xxh3"] == x} for x in {row["xxh3"] for row in a}
               if sum(row["xxh3"] == x for row in a) == 2]  # fmt: skip
    assert pairs.pop(frozenset(same)) == ["a train", "a test", "1.0 "]
    ((pair, (_, _, how)),) = pairs.items()
    assert how.split()[1] == "mirrored"
    assert len(pair & {row["key"] for row in a}) == len(pair & {row["key"] for row in b}) == 1
    (patient,) = [row[-1] for row in rows if row[0] == "shared patient"]
    assert patient in {row["patient"] for row in a} & {row["patient"] for row in b}


def test_hashes_of_two_keys_or_archives_prove_nothing(
    two: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was not searched for is not called absent."""
    keys = {"labels": str(tmp_path / "b.csv"), "images": str(tmp_path / "b_images")}
    columns = {"file": "file", "patient": "patient", "split": "split"}
    config = ingest.recipe("folder", columns=columns, label_columns=[], **keys)
    convert(config | {"archive": "elsewhere"}, tmp_path / "c", workers=1)
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", "another key for tests, of some length")
    convert(config, tmp_path / "d", workers=1)
    against = f"against=[{tmp_path / 'c'},{tmp_path / 'd'}]"
    capsys.readouterr()
    assert main(["audit", f"path={two.a}", against, "near_duplicates=false", "workers=1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown == [
        "patients in two splits: none",
        "patients: cannot be compared, a and c: their patients are of two archives by their recipes",
        "patients: cannot be compared, a and d: their patients were hashed with two keys",
        "the audit found nothing that must not be there; identifying values were not searched for: name their source, "
        "source=FOLDER",
    ]
