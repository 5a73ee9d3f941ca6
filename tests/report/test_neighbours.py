"""``report embeddings=FOLDER``: neighbours and shares of labels beside loops in plain numpy; pictures; refusals."""

import base64
import io
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_run import write
from train.data.volumes import make, random_volumes

from dira_scale import report
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.neighbours import nearest_of_others
from dira_scale.judge.evaluation import embeddings
from dira_scale.judge.evaluation.embeddings import About, EmbeddedDataset, Embeddings, Weights
from dira_scale.report.neighbours import K, known_labels, maps, shares


def embed(out: Path, root: Path, values: np.ndarray, sides: tuple[int, ...] = ()) -> Path:
    """A folder as embed writes it, with these ``values`` of all images."""
    dataset = ShardedDataset.open(root)
    info = dataset.info
    data = EmbeddedDataset(info.name, dataset.hash, info.modality, info.licence, info.label_names, info.classes)
    weights = Weights("random", "resnet18", None, None, 0, "0123456789abcdef")
    about = About("random", weights, data, "all", [32, 32], [], [], 5, values.shape[1], "float32", "fp32", len(values),
                  embeddings.part_rows(len(values)), "mean over space", sides=[*sides])  # fmt: skip
    embeddings.claim(out, about)
    for part in range(about.parts):
        rows = np.arange(len(values))[about.span(part)]
        columns = dataset.manifest.table(["key", "patient", "split"]).take(rows)
        where = embeddings.places(dataset, rows, sides) if sides else {}
        embeddings.write_part(out, about, part, columns, dataset.labels(rows), values[rows], where)
    return out


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """108 images, two a patient, with labels ``bright``, ``coin`` (unknown for every fifth) and ``never``."""
    return write(tmp_path_factory.mktemp("neighbours") / "shards")


@pytest.fixture(scope="module")
def folder(shards: Path) -> Path:
    """Features in which bright images are near each other, and images of a patient the nearest."""
    rng = np.random.default_rng(1)
    bright = ShardedDataset.open(shards).labels(np.arange(108))[:, :1]
    values = (
        rng.normal(size=(108, 6))
        + np.repeat(3 * rng.normal(size=(54, 6)), 2, 0)
        + [[6, 0, 0, 0, 0, 0]] * (2 * bright - 1)
    )
    return embed(shards.with_name("features"), shards, values.astype(np.float32))


@pytest.fixture(scope="module")
def page(folder: Path, shards: Path) -> str:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert report.main([f"embeddings={folder}", f"data.shards={shards}"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return folder.with_name("features.neighbours.html").read_text()


def brute_force(values: np.ndarray, owners: np.ndarray, query: int, k: int) -> list[tuple[int, float]]:
    """Rows and cosines, one pair of images after another."""
    cosines = []
    for row in range(len(values)):
        if owners[row] != owners[query]:
            a, b = values[query].astype(float), values[row].astype(float)
            cosines.append((row, float(a @ b / np.sqrt((a @ a) * (b @ b)))))
    return sorted(cosines, key=lambda pair: -pair[1])[:k]


def test_shares_of_labels_are_those_of_loops(folder: Path) -> None:
    read = Embeddings.open(folder)
    values, owners = read.values, np.unique(read.column("patient"), return_inverse=True)[1]
    names, labels = known_labels(read)
    assert names == ["bright", "coin", "never"]
    asked = np.random.default_rng(2).permutation(108)[:70]
    found, _ = nearest_of_others(values, owners, asked, K)
    made = {row.label: row for row in shares(names, labels, owners, asked, found)}
    assert made.keys() == {"bright", "coin"}  # nobody has the third
    for name, row in made.items():
        column, near, chance = labels[:, names.index(name)], [], []
        for query in asked:
            if column[query] == 1:
                around = [column[i] for i, _ in brute_force(values, owners, query, K) if not np.isnan(column[i])]
                others = [column[i] for i in range(108) if owners[i] != owners[query] and not np.isnan(column[i])]
                near.append(np.mean(around))
                chance.append(np.mean(others))
        assert row.images == len(near)
        assert (row.share, row.chance) == pytest.approx((np.mean(near), np.mean(chance)))
        assert row.interval is not None and row.interval[0] < row.share < row.interval[1]
    assert made["bright"].share > 1.2 * made["bright"].chance


def test_the_page_shows_each_image_with_its_neighbours(page: str, folder: Path, shards: Path) -> None:
    read, dataset = Embeddings.open(folder), ShardedDataset.open(shards)
    owners = np.unique(read.column("patient"), return_inverse=True)[1]
    rows = re.findall(r'<div class="nearest".*?</div>', page, re.DOTALL)
    assert len(rows) == 12 and "http" not in page.replace("http://www.w3.org", "") and "<script" not in page
    planes = {i: np.asarray(Image.fromarray((dataset.picture(i) * 255).astype(np.uint8))) for i in range(108)}
    seen = set()
    for row in rows:
        tiles = re.findall(r'base64,(.*?)".*?<figcaption>(.*?)</figcaption>', row)
        assert len(tiles) == 1 + K
        query = _recognised(tiles[0][0], planes)
        seen.add(owners[query])
        for (picture, caption), (neighbour, cosine) in zip(
            tiles[1:], brute_force(read.values, owners, query, K), strict=True
        ):
            assert _recognised(picture, planes) == neighbour and caption.startswith(f"{cosine:.3f}")
            mine, its = (dataset.labels(np.array([i]))[0] == 1 for i in (query, neighbour))
            names = dataset.info.label_names
            assert re.findall("<b>(.*?)</b>", caption) == [
                n for n, a, b in zip(names, mine, its, strict=True) if a and b
            ]
            assert all((name in unescape(caption)) == has for name, has in zip(names, its, strict=True))
    assert len(seen) == 12  # a patient is shown once


def _recognised(picture: str, planes: dict[int, np.ndarray]) -> int:
    """The image of which a tile of 160 pixels shows the 40 x 32, between black above and below."""
    tile = Image.open(io.BytesIO(base64.b64decode(picture)))
    small = np.asarray(tile.resize((40, 40), Image.Resampling.BOX), float)[4:36]
    return min(planes, key=lambda i: float(np.abs(planes[i] - small).mean()))


def test_the_map_has_a_point_an_image_and_the_page_is_the_same_again(page: str, folder: Path, shards: Path) -> None:
    figures = dict(re.findall(r"<figure><h3>(.*?)</h3>(<svg.*?</svg>)", page, re.DOTALL))
    assert {*figures} == {"bright", "coin"}
    dataset = ShardedDataset.open(shards)
    for name, column in zip(("bright", "coin"), dataset.labels(np.arange(108)).T, strict=False):
        points = [figures[name].count(f"fill: var(--{key}") for key in ("plot-2", "plot-level")]
        assert points == [int((column == value).sum()) for value in (1, 0)]
    again = folder.with_name("again.html")
    assert report.main([f"embeddings={folder}", f"data.shards={shards}", f"out={again}"]) == 0
    assert again.read_text() == page


def test_groups_stand_apart_on_the_map() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0.0, 1.0], 40)
    features = rng.normal(size=(80, 16)).astype(np.float32) + 9 * np.outer(groups * 2 - 1, np.eye(16)[0])
    (plot,) = maps(["b"], groups[:, None], features, np.arange(80))
    found = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*plot-(\w+)', plot.drawing)
    points = np.array([pair[:2] for pair in found], float)
    yes = np.array([pair[2] == "2" for pair in found])
    assert len(points) == 80
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(80)
    assert (yes[distances.argmin(1)] == yes).all()


def test_of_volumes_the_middle_slice_is_shown(tmp_path: Path) -> None:
    volumes = random_volumes(5)
    toy = make(tmp_path / "toy", volumes)
    embed(tmp_path / "features", toy.root, np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))
    assert report.main([f"embeddings={tmp_path / 'features'}", f"data.shards={toy.root}"]) == 0
    page = (tmp_path / "features.neighbours.html").read_text()
    assert "middle axial slice" in page and "image 1" not in page and "volume 1" in page
    low, high = (float(toy.column(name)[0]) for name in ("low", "high"))
    scaled = [np.clip((volume[len(volume) // 2] - low) / (high - low), 0, 1) * 255 for volume in volumes]
    for picture in re.findall(r"base64,(.*?)\"", page):
        tile = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), float)
        differences = []
        for plane in scaled:
            sides = [round(160 * side / max(plane.shape)) for side in plane.shape]
            shown = Image.fromarray(plane.astype(np.uint8)).resize(sides[::-1], Image.Resampling.BILINEAR)
            top, left = ((160 - side) // 2 for side in sides)
            inner = tile[top : top + sides[0], left : left + sides[1]]
            differences.append(float(np.abs(inner - np.asarray(shown)).mean()))
        assert min(differences) < 10 < sorted(differences)[1]


def test_what_is_no_folder_of_these_images_is_refused(
    folder: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, one = write(tmp_path / "other", slope=100), write(tmp_path / "one", patient=lambda i: 0)
    square = embed(tmp_path / "maps", shards, np.zeros((108, 2, 3, 3), np.float32), sides=(3, 3))
    same = embed(tmp_path / "same", one, np.eye(108, dtype=np.float32))
    for of, data, message in (
        (folder, other, "has other images"),
        (square, shards, "holds maps"),
        (same, one, "all images are of one patient"),
        (shards, shards, "has no _embedding.json"),
    ):
        assert report.main([f"embeddings={of}", f"data.shards={data}"]) == 2
        assert message in capsys.readouterr().err
