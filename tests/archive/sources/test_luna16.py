"""LUNA16: blocks around candidates, which of them are drawn, and the real lists."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from archive import ingest
from archive.sources import miniatures_3d
from archive.sources.miniatures import write_text
from upath import UPath

from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.luna16 import Luna16, Luna16Candidates
from dira_scale.base.errors import UserError


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, sitk.Image]:
    """The miniature in ``tmp_path``, as ITK reads it."""
    made = miniatures_3d.luna16(tmp_path)
    folds = {"1.3.6.1": 0, "1.3.6.2": 0, "1.3.6.3": 5, "1.3.6.4": 9}
    return {uid: sitk.ReadImage(tmp_path / f"subset{folds[uid]}/{uid}.mhd") for uid in made}


def test_nodules_of_missing_scans_are_counted(
    scans: dict[str, sitk.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(Luna16(str(tmp_path)).records(1))
    printed = capsys.readouterr().out
    assert "annotations.csv: 1 lines are for 1 missing scans" in printed
    assert "two scans of one patient may be in two splits" in printed


def candidates(
    root: Path, scans: dict[str, sitk.Image], count: int
) -> dict[int, tuple[str, tuple[int, int, int], int]]:
    """A list of so many candidates, every tenth a nodule, at random voxels: scan, voxel and class by line."""
    rng, reported, lines = np.random.default_rng(0), {}, ["seriesuid,coordX,coordY,coordZ,class"]
    for n in range(count):
        uid = list(scans)[n % 4]
        z, y, x = (int(rng.integers(0, side)) for side in (40, 48, 56))
        point = scans[uid].TransformIndexToPhysicalPoint((x, y, z))
        lines.append(",".join([uid, *(f"{value:.4f}" for value in point), str(int(n % 10 == 0))]))
        reported[n + 2] = uid, (z, y, x), int(n % 10 == 0)
    write_text(root / "candidates_V2.csv", *lines, "1.3.6.99,1,2,3,0", "1.3.6.1,1000,0,-280,1")
    return reported


def test_published_folds_replace_those_of_the_folders(
    scans: dict[str, sitk.Image], tmp_path: Path, shards: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list per split, of patients, here scans, below a heading; those in none are counted as rejected."""
    reported = candidates(tmp_path, scans, 40)
    first, second, third, fourth = scans
    (lists := tmp_path / "lists").mkdir()
    write_text(lists / "train_cv-1.csv", "FileName", first, second, "absent")
    write_text(lists / "val_cv-1.csv", "FileName", fourth, second)
    words = {"images": tmp_path, "negatives": None, "patch": [8, 12, 10], "lists": lists}
    with pytest.raises(UserError, match=rf"val_cv-1\.csv: {second} is also in train_cv-1\.csv: keep one of the lines"):
        shards("luna16_candidates", **words)
    write_text(lists / "val_cv-1.csv", "FileName", fourth)
    dataset, of = shards("luna16_candidates", **words), Counter(uid for uid, _, _ in reported.values())
    assert dataset.splits() == {"train": of[first] + of[second], "val": of[fourth]}
    printed = capsys.readouterr().out
    assert f"{of[third]} x its patient is in none of recipe.lists" in printed
    assert "recipe.lists: 1 of 4 names are of no patient in recipe.images (absent)" in printed


def test_blocks_around_candidates(scans: dict[str, sitk.Image], tmp_path: Path, shards: Callable) -> None:
    """Every block against the whole scan as ITK reads it, with air around."""
    reported = candidates(tmp_path, scans, 40)
    dataset = shards("luna16_candidates", images=tmp_path, negatives=None, patch=[8, 12, 10])
    assert len(dataset) == 40 and dataset.label_names == ["nodule"]
    for line, (uid, (z, y, x), kind) in reported.items():
        name, image = f"{uid}/{line}", scans[uid]
        around = np.pad(sitk.GetArrayFromImage(image), ((4, 4), (6, 6), (5, 5)), constant_values=-1000)
        block = around[z : z + 8, y : y + 12, x : x + 10]
        turned = block[:, ::-1, ::-1] if image.GetDirection()[0] < 0 else block
        np.testing.assert_array_equal(dataset.pixels(name), np.clip(turned, -1024, 3071))
        row = dataset.row(name)
        assert row["labels"] == [kind] and row["spacing"] == pytest.approx(image.GetSpacing()[::-1])
        corner = np.array(row["affine"]).reshape(4, 4) @ [0, 0, 0, 1]
        first = [int(v) - s // 2 for v, s in zip((x, y, z), (10, 12, 8), strict=True)]
        if image.GetDirection()[0] < 0:
            first[0], first[1] = first[0] + 9, first[1] + 11
        point = image.TransformContinuousIndexToPhysicalPoint([float(v) for v in first])
        np.testing.assert_allclose(corner[:3] * [-1, -1, 1], point, atol=1e-3)
    assert dataset.rejected(*(f"subset9/1.3.6.{n}.mhd" for n in (1, 5)), "1.3.6.1/43")["1.3.6.1/43"] == (
        "a candidate outside its scan"
    )


def test_candidates_name_the_nodules_that_they_lie_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The miniature's, then with a nodule of 3 mm around the second candidate of the first, and no excluded list."""
    miniatures_3d.luna16_candidates(tmp_path)

    def found() -> dict[str, list[str]]:
        by_scan: dict[str, list[str]] = {}
        for record in Luna16Candidates(str(tmp_path), [4, 4, 4], None, [], 0).records(1):
            if not record.rejected:
                by_scan.setdefault(str(record.study), []).append(record.attributes["lesion"])
                assert record.attributes["lesions"] == str(nodules[str(record.study)])
        return by_scan

    uids, none = ["1.3.6.1", "1.3.6.2", "1.3.6.3", "1.3.6.4"], [""] * 6
    nodules = dict.fromkeys(uids, 2)
    whole = ["1", "1", "2", "2", "irrelevant", *none]
    assert found() == dict.fromkeys(uids[:3], whole) | {"1.3.6.4": ["1", "1", "irrelevant", *none]}
    assert not capsys.readouterr().out.count("annotations_excluded.csv")

    (tmp_path / "annotations_excluded.csv").unlink()
    listed = (tmp_path / "candidates_V2.csv").read_text().splitlines()
    second = next(line for line in listed[2:] if line.startswith("1.3.6.2"))  # the first
    lines = [*(tmp_path / "annotations.csv").read_text().splitlines(), second.rpartition(",")[0] + ",1.0"]
    write_text(tmp_path / "annotations.csv", *lines)
    nodules["1.3.6.2"] = 3
    assert found()["1.3.6.2"] == ["1 3", "1", "2", "2", "", *none]
    assert "annotations_excluded.csv is absent: findings that LUNA16's FROC leaves out count" in capsys.readouterr().out

    (tmp_path / "annotations.csv").unlink()
    records = Luna16Candidates(str(tmp_path), [4, 4, 4], None, [], 0).records(1)
    assert not any(record.attributes for record in records)
    assert "annotations.csv is absent: without it candidates have no FROC" in capsys.readouterr().out


def test_of_a_store_a_block_fetches_its_rows_alone(
    scans: dict[str, sitk.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan has thousands of candidates: to fetch it whole for each would be 250 times the dataset."""
    candidates(tmp_path, scans, 40)
    root, fetched = UPath(f"memory://{tmp_path.name}"), Counter[str]()
    for path in tmp_path.rglob("*.*"):
        location = root / path.relative_to(tmp_path).as_posix()
        location.parent.mkdir(parents=True, exist_ok=True)
        location.write_bytes(path.read_bytes())
    store = type(root.fs)
    ranged, whole = store.cat_file, store._open

    def cat_file(self: object, path: str, *span: int, **more: Any) -> bytes:
        content: bytes = ranged(self, path, *span, **more)
        fetched[Path(path).suffix] += len(content)
        return content

    def opened(self: object, path: str, *arguments: Any, **more: Any) -> Any:
        assert not path.endswith(".raw"), "it is fetched whole"
        return whole(self, path, *arguments, **more)

    monkeypatch.setattr(store, "cat_file", cat_file)
    monkeypatch.setattr(store, "_open", opened)
    keys = {"patch": [8, 12, 10], "negatives": None}
    recipe, other = (
        Recipe.from_config(ingest.recipe("luna16_candidates", images=str(location), **keys))
        for location in (tmp_path, root)
    )
    pairs = zip(recipe.make_source().records(1), other.make_source().records(1), strict=True)
    read = [(near.image, far.image) for near, far in pairs if not near.rejected and near.name != "1.3.6.1/43"]
    assert len(read) == 40
    for near, far in read:
        fetched.clear()
        np.testing.assert_array_equal(far.read(recipe.reading).voxels, near.read(recipe.reading).voxels)  # type: ignore[union-attr]
        assert 0 < fetched[".raw"] <= 2 * 8 * 12 * 56  # bytes of so many slices, rows and columns


def kept(root: Path, **keys: object) -> set[str]:
    arguments = {"patch": [4, 4, 4], "negatives": 3, "whole": ["subset9"], "seed": 0} | keys
    records = Luna16Candidates(str(root), **arguments).records(1)  # type: ignore[arg-type]
    return {record.name for record in records if not record.rejected}


def test_negatives_are_thinned_out_by_the_seed(scans: dict[str, sitk.Image], tmp_path: Path) -> None:
    reported = candidates(tmp_path, scans, 4000)
    fold = {"1.3.6.1": 0, "1.3.6.2": 0, "1.3.6.3": 5, "1.3.6.4": 9}
    nodules = {f"{uid}/{line}" for line, (uid, _, kind) in reported.items() if kind} | {"1.3.6.1/4003"}
    of_nine = {f"{uid}/{line}" for line, (uid, *_) in reported.items() if fold[uid] == 9}
    three, six = kept(tmp_path), kept(tmp_path, negatives=6)
    assert nodules | of_nine <= three < six
    thinned = len({name for name in nodules if name not in of_nine})
    assert abs(len(three - nodules - of_nine) / (3 * thinned) - 1) < 0.1
    assert abs(len(six - nodules - of_nine) / (6 * thinned) - 1) < 0.1
    other = kept(tmp_path, seed=1)
    assert other != three and abs(len(other) - len(three)) < 150
    assert kept(tmp_path, negatives=None) == {f"{uid}/{line}" for line, (uid, *_) in reported.items()} | {
        "1.3.6.1/4003"
    }
    assert len(kept(tmp_path, whole=[])) < len(three)


def test_values_that_are_not_all_there(scans: dict[str, sitk.Image], tmp_path: Path) -> None:
    candidates(tmp_path, scans, 4)
    raw = tmp_path / "subset0" / "1.3.6.1.raw"
    raw.write_bytes(raw.read_bytes()[:-2])
    record = next(iter(Luna16Candidates(str(tmp_path), [4, 4, 4], None, [], 0).records(1)))
    records = [r for r in Luna16Candidates(str(tmp_path), [4, 4, 4], None, [], 0).records(1) if r.patient == "1.3.6.1"]
    assert record.rejected  # of the scans, which come first
    with pytest.raises(Exception, match="not all of the scan's"):
        records[0].image.read(Recipe.from_config(ingest.recipe("luna16_candidates", images="x")).reading)
