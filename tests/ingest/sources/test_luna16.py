"""LUNA16: boxes on bright voxels, folds, blocks around candidates, and the real lists."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ingest.sources import miniatures_3d
from ingest.sources.miniatures import write_text
from upath import UPath

from dira_scale.errors import UserError
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sources.luna16 import Luna16
from dira_scale.ingest.sources.luna16_candidates import Luna16Candidates


def test_scans_and_nodules_arrive(tmp_path: Path, shards: Callable, capsys: pytest.CaptureFixture) -> None:
    made = miniatures_3d.luna16(tmp_path / "luna")
    dataset = shards("luna16", images=tmp_path / "luna")
    said = capsys.readouterr().out
    assert "annotations.csv: 1 lines are for 1 missing scans" in said
    assert "two scans of one patient may be in two splits" in said
    assert dataset.splits() == {"train": 2, "val": 1, "test": 1}
    for uid, (values, image) in made.items():
        row = dataset.row(uid)
        np.testing.assert_array_equal(dataset.pixels(uid), np.clip(values, -1024, 3071))
        assert row["spacing"] == pytest.approx(image.GetSpacing()[::-1])
        assert (row["low"], row["high"]) == (-1000, 1000)
        assert dataset.labels(uid) == {"nodule": float(bool((values == 3000).any()))}
    assert dataset.row("1.3.6.3")["split"] == "val" and dataset.row("1.3.6.4")["split"] == "test"
    for uid, places in {"1.3.6.1": [(20, 24, 30), (39, 10, 12)], "1.3.6.2": [(5, 39, 15)]}.items():
        values, spacing = made[uid][0], np.array(dataset.row(uid)["spacing"])
        for (label, z, y, x, d, h, w), place in zip(dataset.boxes(uid), places, strict=True):
            assert label == "nodule" and values[place] == 3000  # y and x of the turned scan count from the other end
            diameter = {(20, 24, 30): 9, (39, 10, 12): 8, (5, 39, 15): 6.5}[place]
            first = place + np.array(0.5) - diameter / spacing / 2
            last = np.minimum(first + diameter / spacing, values.shape)
            np.testing.assert_allclose([z, y, x], first, atol=1e-3)
            np.testing.assert_allclose([z + d, y + h, x + w], last, atol=1e-3)
    again = "subset9/1.3.6.1.mhd"
    assert dataset.rejected(again, "subset9/1.3.6.5.mhd") == {
        again: "a scan of this UID was met before",
        "subset9/1.3.6.5.mhd": "the file cannot be read (FileNotFoundError)",
    }


def candidates(root: Path, made: dict, count: int) -> dict[int, tuple[str, tuple[int, int, int], int]]:
    """A list of so many candidates, every tenth a nodule, at random voxels: scan, voxel and class by line."""
    rng, told, lines = np.random.default_rng(0), {}, ["seriesuid,coordX,coordY,coordZ,class"]
    for n in range(count):
        uid = list(made)[n % 4]
        z, y, x = (int(rng.integers(0, side)) for side in (40, 48, 56))
        point = made[uid][1].TransformIndexToPhysicalPoint((x, y, z))
        lines.append(",".join([uid, *(f"{value:.4f}" for value in point), str(int(n % 10 == 0))]))
        told[n + 2] = uid, (z, y, x), int(n % 10 == 0)
    write_text(root / "candidates_V2.csv", *lines, "1.3.6.99,1,2,3,0", "1.3.6.1,1000,0,-280,1")
    return told


def test_blocks_around_candidates(tmp_path: Path, shards: Callable) -> None:
    """Every block against the whole scan as ITK reads it, with air around."""
    made = miniatures_3d.luna16(tmp_path / "luna")
    told = candidates(tmp_path / "luna", made, 40)
    dataset = shards("luna16_candidates", images=tmp_path / "luna", negatives=None, patch=[8, 12, 10])
    assert len(dataset) == 40 and dataset.label_names == ["nodule"]
    for line, (uid, (z, y, x), kind) in told.items():
        name, (_, image) = f"{uid}/{line}", made[uid]
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
        "a candidate outside of its scan"
    )


def test_of_a_store_a_block_fetches_its_rows_alone(
    tmp_path: Path, ingest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan has thousands of candidates: to fetch it whole for each would be 250 times the dataset."""
    candidates(tmp_path, miniatures_3d.luna16(tmp_path), 40)
    root, fetched = UPath(f"memory://{tmp_path.name}"), Counter[str]()
    for path in tmp_path.rglob("*.*"):
        place = root / path.relative_to(tmp_path).as_posix()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
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
        Recipe.from_config(ingest.recipe("luna16_candidates", images=str(place), **keys)) for place in (tmp_path, root)
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


def test_negatives_are_thinned_out_by_the_seed(tmp_path: Path) -> None:
    made = miniatures_3d.luna16(tmp_path)
    told = candidates(tmp_path, made, 4000)
    fold = {"1.3.6.1": 0, "1.3.6.2": 0, "1.3.6.3": 5, "1.3.6.4": 9}
    nodules = {f"{uid}/{line}" for line, (uid, _, kind) in told.items() if kind} | {"1.3.6.1/4003"}
    of_nine = {f"{uid}/{line}" for line, (uid, *_) in told.items() if fold[uid] == 9}
    three, six = kept(tmp_path), kept(tmp_path, negatives=6)
    assert nodules | of_nine <= three < six
    thinned = len({name for name in nodules if name not in of_nine})
    assert abs(len(three - nodules - of_nine) / (3 * thinned) - 1) < 0.1
    assert abs(len(six - nodules - of_nine) / (6 * thinned) - 1) < 0.1
    other = kept(tmp_path, seed=1)
    assert other != three and abs(len(other) - len(three)) < 150
    assert kept(tmp_path, negatives=None) == {f"{uid}/{line}" for line, (uid, *_) in told.items()} | {"1.3.6.1/4003"}
    assert len(kept(tmp_path, whole=[])) < len(three)


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"patch": [4, 4]}, r"recipe.patch=\[4, 4\]: give \[z, y, x\] in voxels"),
        ({"patch": [0, 4, 4]}, "recipe.patch="),
        ({"whole": ["fold9"]}, "recipe.whole: unknown fold 'fold9', use some of subset0"),
    ],
)
def test_impossible_blocks_are_named(tmp_path: Path, keys: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        kept(tmp_path, **keys)


def test_values_that_are_not_all_there(tmp_path: Path, ingest: SimpleNamespace) -> None:
    made = miniatures_3d.luna16(tmp_path)
    candidates(tmp_path, made, 4)
    raw = tmp_path / "subset0" / "1.3.6.1.raw"
    raw.write_bytes(raw.read_bytes()[:-2])
    record = next(iter(Luna16Candidates(str(tmp_path), [4, 4, 4], None, [], 0).records(1)))
    records = [r for r in Luna16Candidates(str(tmp_path), [4, 4, 4], None, [], 0).records(1) if r.patient == "1.3.6.1"]
    assert record.rejected  # of the scans, which come first
    with pytest.raises(Exception, match="not all of the scan's"):
        records[0].image.read(Recipe.from_config(ingest.recipe("luna16_candidates", images="x")).reading)


def test_lists_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds none of subset0, subset1"):
        Luna16(str(tmp_path))
    miniatures_3d.luna16(tmp_path)
    with pytest.raises(UserError, match=r"holds no candidates_V2\.csv and no candidates\.csv"):
        kept(tmp_path)
    write_text(tmp_path / "candidates.csv", "seriesuid,coordX,coordY,coordZ,class", "1.3.6.1,1,2,3,2")
    with pytest.raises(UserError, match="line 2: expected class 0 or 1, got '2'"):
        kept(tmp_path)
    text = (tmp_path / "annotations.csv").read_text()
    (tmp_path / "annotations.csv").write_text(text.replace("coordZ", "coordz"))
    with pytest.raises(UserError, match=r"annotations\.csv: no column 'coordZ'; did you mean 'coordz'"):
        list(Luna16(str(tmp_path)).records(1))
    (tmp_path / "annotations.csv").write_text(text.replace(",1,2,3,5.5", ",1,2,3,"))
    with pytest.raises(UserError, match="line 2: '' is not a number"):
        list(Luna16(str(tmp_path)).records(1))
    (tmp_path / "annotations.csv").write_text(text.replace(",1,2,3,5.5", ",1,nan,3,5.5"))
    with pytest.raises(UserError, match="line 2: 'nan' is not a number"):
        list(Luna16(str(tmp_path)).records(1))


@pytest.mark.data
def test_the_real_annotations(tmp_path: Path, real: Callable[[str], Path]) -> None:
    """All 888 series and 1,186 nodules, on headers made for them: every box's middle is where the list says."""
    lists = real("luna16_lists")
    write_text(tmp_path / "annotations.csv", (lists / "annotations.csv").read_text())
    with (lists / "annotations.csv").open() as file:
        plain = [(row["seriesuid"], *(float(row[k]) for k in ("coordX", "coordY", "coordZ", "diameter_mm")))
                 for row in csv.DictReader(file)]  # fmt: skip
    series = (lists / "seriesuids.csv").read_text().split()
    places = np.array([row[1:4] for row in plain])
    low, spacing = np.floor(places.min(axis=0)) - 40, np.array([0.7, 0.7, 1.25])
    shape = np.ceil((places.max(axis=0) + 40 - low) / spacing).astype(int)
    header = (
        "ObjectType = Image\nNDims = 3\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
        f"Offset = {' '.join(map(str, low))}\nElementSpacing = {' '.join(map(str, spacing))}\n"
        f"DimSize = {' '.join(map(str, shape))}\nElementType = MET_SHORT\nElementDataFile = "
    )
    for n, uid in enumerate(series):
        path = tmp_path / f"subset{n % 10}" / f"{uid}.mhd"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{header}{uid}.raw\n")
        path.with_suffix(".raw").touch()
    records = list(Luna16(str(tmp_path)).records(2))
    assert len(records) == 888 and not any(record.rejected for record in records)
    assert sum(len(record.boxes) for record in records) == 1186
    assert sum(record.labels == (1.0,) for record in records) == 601
    found = Counter()
    for record in records:
        for box in record.boxes:
            middle = low + spacing * [box.x + box.w / 2 - 0.5, box.y + box.h / 2 - 0.5, box.z + box.d / 2 - 0.5]
            found[record.name, *np.round(middle, 3), round(box.w * spacing[0], 3)] += 1
    assert found == Counter((uid, *np.round(values[:3], 3), round(values[3], 3)) for uid, *values in plain)
