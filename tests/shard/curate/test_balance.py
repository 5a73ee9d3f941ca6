"""``shard balance``: clusters beside scikit-learn's, near-duplicates beside all pairs, draws beside a recursion."""

import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.test_neighbours import embed
from sklearn.cluster import KMeans
from toy_run import write

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.curate.balance import clusters, duplicates, make
from dira_scale.shard.curate.balance.clusters import k_means, nearest, resampled, tree
from dira_scale.shard.curate.balance.draw import repeats
from dira_scale.train.data.repeats import Repeats

TRAIN = 60  # rows of the toy dataset's split


def test_clusters_are_as_tight_as_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(15, 8))[rng.integers(15, size=1500)] * 2 + rng.normal(size=(1500, 8))).astype(np.float32)
    theirs = KMeans(15, n_init=3, random_state=0).fit(points).inertia_
    centroids = k_means(points, np.arange(1500), 15, np.random.default_rng(0))
    cluster, distance = nearest(points, centroids)
    apart = ((points[:, None] - centroids) ** 2).sum(2)
    np.testing.assert_array_equal(cluster, apart.argmin(1))
    np.testing.assert_allclose(distance, apart.min(1), rtol=1e-3)
    assert distance.sum() < 1.1 * theirs
    assert KMeans(15, init=centroids, n_init=1, tol=0).fit(points).inertia_ > 0.98 * distance.sum()  # it is at its end


def test_resampled_centroids_leave_the_dense_place() -> None:
    """Plain k-means puts most centroids into the tenth of a line where 1,800 of 2,000 points lie."""
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(0, 0.1, 1800), rng.uniform(0.1, 1, 200)])[:, None].astype(np.float32)
    dense = [int((resampled(points, 30, rounds, np.random.default_rng(0))[0] < 0.1).sum()) for rounds in (0, 10)]
    assert dense[1] < 0.7 * dense[0]
    levels, centroids = tree(points, (30, 6, 2), 2, seed=0)
    assert centroids.shape == (2, 1) and [len(np.unique(level)) for level in levels] == [30, 6, 2]
    for fine, coarse in pairwise(levels):
        assert len({*zip(fine.tolist(), coarse.tolist(), strict=True)}) == len(np.unique(fine))  # each is in one


@pytest.mark.parametrize(("threshold", "spread"), [(0.8, 2**14), (0.97, 2**14), (1.0, 2**14), (0.97, 0)])
def test_no_near_duplicate_is_missed(threshold: float, spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the full matrix: what is dropped is near what is kept in its place, and no two that are kept are near.
    From ``spread`` centroids on, they start at random."""
    monkeypatch.setattr(clusters, "SPREAD", spread)
    for name, value in {"CELL": 15, "TOGETHER": 7, "AGAINST": 11}.items():
        monkeypatch.setattr(duplicates, name, value)
    rng = np.random.default_rng(2)
    points = rng.normal(size=(250, 6))
    points = np.concatenate([points, points[:80] + 0.1 * rng.normal(size=(80, 6)), points[:5]])[rng.permutation(335)]
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    kept, cosine = duplicates.near_duplicates(points, min(threshold, 1 - 1e-6), seed=0)
    alike, is_kept = points.astype(float) @ points.T.astype(float), kept == np.arange(335)
    near = alike >= min(threshold, 1 - 1e-6)
    np.fill_diagonal(near, False)
    assert not near[np.ix_(is_kept, is_kept)].any()
    assert is_kept[kept].all() and near[~is_kept, kept[~is_kept]].all()
    np.testing.assert_allclose(cosine, alike[np.arange(335), kept], atol=1e-6)
    assert 5 <= (~is_kept).sum() < 330
    if threshold == 1:
        assert (~is_kept).sum() == 5  # exact copies, each once


def dealt(levels: list[np.ndarray], rows: list[int], draws: int, most: int) -> list[int]:
    """Each cluster's share, dealt one draw after the other to the part that has least; by size alone, so sorted."""
    if not levels:
        parts, rooms = [[row] for row in rows], [most] * len(rows)
    else:
        parts = [[row for row in rows if levels[-1][row] == c] for c in sorted({levels[-1][row] for row in rows})]
        rooms = [most * len(part) for part in parts]
    shares = [0] * len(parts)
    for _ in range(draws):
        shares[min((i for i in range(len(parts)) if shares[i] < rooms[i]), key=lambda i: shares[i])] += 1
    if not levels:
        return shares
    return [share for part, of in zip(parts, shares, strict=True) for share in dealt(levels[:-1], part, of, most)]


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_draws_are_dealt_from_the_top_down(data: Any) -> None:
    """Exactly as by the plain recursion where all divides; else every part has its whole share, or one more."""
    count, most = data.draw(st.integers(2, 25)), data.draw(st.integers(1, 6))
    fine = np.array(data.draw(st.lists(st.integers(0, 7), min_size=count, max_size=count)))
    coarse = np.array(data.draw(st.lists(st.integers(0, 2), min_size=8, max_size=8)))[fine]
    draws = data.draw(st.integers(1, most * count))
    found = repeats([fine, coarse], np.full(count, most), draws, seed=data.draw(st.integers(0, 9)))
    assert found.sum() == draws and found.min() >= 0 and found.max() <= most
    order = np.lexsort((np.arange(count), fine, coarse))
    expected = np.empty(count, int)
    expected[order] = dealt([fine, coarse], list(range(count)), draws, most)
    # Among parts with the same room a keyed draw says who has one more: of those of one parent the shares are the same.
    for level, above in ((coarse, np.zeros(count, int)), (fine, coarse), (np.arange(count), fine)):
        for parent in np.unique(above):
            parts = np.unique(level[above == parent])
            shares, plain = ([int(of[level == part].sum()) for part in parts] for of in (found, expected))
            if sum(shares) == sum(plain):
                assert sorted(shares) == sorted(plain)
            room = [most * int((level == part).sum()) for part in parts]
            left = [share for share, most_of in zip(shares, room, strict=True) if share < most_of]
            assert not left or max(shares) <= min(left) + 1


@pytest.fixture(scope="module")
def skewed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """There are 60 images, 57 of one source and 3 of another; image 5 is image 4 again."""
    root = write(tmp_path_factory.mktemp("balance") / "shards")
    rng, source = np.random.default_rng(0), (np.arange(108) % 20 == 19).astype(int)
    values = np.eye(8)[source] + 0.2 * rng.normal(size=(108, 8))
    values[5] = 3 * values[4]
    return root, embed(root.with_name("features"), root, values.astype(np.float32)), source[:TRAIN]


def test_a_skewed_set_evens_out(
    skewed: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, features, source = skewed
    out, dataset = tmp_path / "balance", ShardedDataset.open(root)
    command = ["balance", f"path={root}", f"embeddings={features}", f"out={out}", "clusters=[8,2]", "duplicates=0.9999"]
    assert main(command) == 0
    assert f"data.weights={out}/weights.arrow" in capsys.readouterr().out
    counts = np.diff(Repeats.open(out / "weights.arrow", [dataset], "train").ends, prepend=0)
    assert counts.sum() == TRAIN and np.bincount(source, counts).tolist() == [30, 30]  # each source half, 19 : 1 before
    assert counts[source == 1].min() >= 7 and counts[source == 0].max() <= 4
    rows = pa.ipc.open_file(str(out / "weights.arrow")).read_all().to_pylist()
    assert [row["key"] for row in rows] == dataset.column("key")[dataset.rows("train")].tolist()
    assert [row["repeats"] for row in rows] == counts.tolist() and len({row["cluster_2"] for row in rows}) == 2
    dropped = {row["key"]: row["duplicate_of"] for row in rows if row["duplicate_of"]}
    assert dropped in ({"5": "4"}, {"4": "5"}) and counts[int(*dropped)] == 0
    with (out / "duplicates.csv").open() as file:
        (listed,) = csv.DictReader(file)
    assert {listed["key"]: listed["kept_key"]} == dropped and listed["patient"] == listed["kept_patient"] == "p2"
    page = (out / "clusters.html").read_text()
    assert page.count("<img") == 2 * 6 - 3 + 2 and "part of no release" in page
    before = [(out / name).read_bytes() for name in (make.FILE, make.LIST, make.PAGE)]
    assert main(command) == 0 and [(out / name).read_bytes() for name in (make.FILE, make.LIST, make.PAGE)] == before
    assert {path.name for path in out.iterdir()} == {make.FILE, make.LIST, make.PAGE, ".dira_scale.json"}
    assert main([*command, "seed=1"]) == 0 and (out / make.FILE).read_bytes() != before[0]


def test_two_images_that_all_others_copy_are_drawn_as_often_as_allowed(
    skewed: tuple[Path, Path, np.ndarray], tmp_path: Path
) -> None:
    root, out = skewed[0], tmp_path / "out"
    features = embed(tmp_path / "two", root, np.eye(8, dtype=np.float32)[np.arange(108) % 2])
    assert main(["balance", f"path={root}", f"embeddings={features}", f"out={out}"]) == 0
    counts = np.diff(Repeats.open(out / "weights.arrow", [ShardedDataset.open(root)], "train").ends, prepend=0)
    assert sorted(counts[counts > 0]) == [16, 16]


def test_what_does_not_fit_is_refused(
    skewed: tuple[Path, Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, features, _ = skewed
    other = write(tmp_path / "other", patient=lambda i: i, slope=1)
    maps = embed(tmp_path / "maps", root, np.zeros((108, 3, 2, 2), np.float32), (2, 2))
    command = [f"path={root}", f"embeddings={features}", f"out={tmp_path / 'out'}"]
    for keys, words in {
        (f"path={other}",): "name what embed what=pooled wrote of split train of",
        (f"embeddings={maps}",): "holds maps of split all of Toy",
        (f"embeddings=[{features},{features}]",): "name one folder for each of 1 dataset",
        ("clusters=[100]",): "at most 59 clusters",
        ("clusters=[4,8]",): "no more on any further level",
        ("draws=10000",): "at most 944 draws",
        ("split=none",): "has no split 'none'",
    }.items():
        assert main(["balance", *command, *keys]) == 2
        assert words in capsys.readouterr().err
