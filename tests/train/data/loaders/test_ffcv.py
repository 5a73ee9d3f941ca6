"""The FFCV loader: the CPU loader's samples and crops, with the pixels of FFCV's own decoding and filter."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from needs import need_extra
from train.data.volumes import alone

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import INFO_FILE, ShardedDataset
from dira_scale.dataset.manifest.beton import JPEG, RAW, ImageField, IntField, Reader, Writer
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.loaders.ffcv import FfcvLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.requests import Requests
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import ViewSpec

SPEC = ViewSpec(size=24)
ORDER = Order((10,), seed=1, batch=4)


@pytest.fixture(autouse=True)
def installed() -> None:
    need_extra("ffcv")


def with_beton(dataset: ShardedDataset, split: str = "train") -> ShardedDataset:
    """``dataset`` with ``{split}.beton``: its images and rows, without the fields that no loader reads."""
    rows, file = dataset.rows(split), dataset.root / f"{split}.beton"
    with Writer(file, {"image": ImageField(), "index": IntField()}, len(rows), 2**20) as writer:
        for row in rows.tolist():
            payload, codec = dataset.read(row), dataset.cell("codec", row)
            pixels = decode(payload, codec)
            if codec == "jpg":
                image = (JPEG, *pixels.shape[:2], payload)
            else:
                colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)
                image = (RAW, *pixels.shape[:2], colour.tobytes())
            writer.add({"image": image, "index": row})
    info = replace(dataset.info, betons=dataset.info.betons | {file.name: file.stat().st_size})
    (dataset.root / INFO_FILE).write_text(info.to_json())
    return ShardedDataset.open(dataset.root)


@pytest.fixture
def make(make_dataset: Callable[..., ShardedDataset], images: Callable[..., Any]) -> Callable[..., Any]:
    """Ten images, two of each patient, as a dataset with a beton."""

    def made(codec: str = "jpg", channels: int = 1, grow: int = 1, name: str = "toy") -> ShardedDataset:
        patients = [f"p{row // 2}" for row in range(10)]
        return with_beton(make_dataset(images(8, channels, grow), codec, name, patients=patients))

    return made


def ffcv(dataset: ShardedDataset, order: Order | EvalOrder = ORDER, spec: ViewSpec = SPEC, **more: Any) -> FfcvLoader:
    return FfcvLoader(LoaderSpec([dataset], "train", order, spec, seed=0, **more))


def area_matrix(source: int, target: int) -> np.ndarray:
    """Means over the part of the source that each target pixel covers; the definition of OpenCV's INTER_AREA."""
    edges, pixels = np.arange(target + 1)[:, None] * source / target, np.arange(source)
    covered = np.clip(edges[1:], pixels, pixels + 1) - np.clip(edges[:-1], pixels, pixels + 1)
    return covered * target / source


def stored_pixels(dataset: ShardedDataset, row: int) -> np.ndarray:
    """[H, W, C] as FFCV decodes."""
    mode, height, width, payload = Reader(dataset.root / "train.beton")[row]["image"]
    if mode == 0:
        return simplejpeg.decode_jpeg(payload, "RGB", fastdct=True, fastupsample=True)
    return np.frombuffer(payload, np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize(("codec", "channels"), [("png", 1), ("png", 3), ("jpg", 1), ("jpg", 3)])
def test_pixels_are_area_means_of_the_crops_that_were_asked_for(
    make: Callable[..., ShardedDataset], codec: str, channels: int
) -> None:
    dataset = make(codec, channels, grow=3)  # every crop is larger than its view
    requests = Requests(Samples([dataset], "train"), ORDER, SPEC, seed=0)
    for step, batch in zip((1, 2), ffcv(dataset).iterate(1, 3), strict=True):
        for view, geometry in zip(batch.views, next(requests.of(range(step, step + 1))).geometries, strict=True):
            assert view.shape == (4, channels, 24, 24) and view.dtype == torch.uint8
            for i, sample in enumerate(batch.index.tolist()):
                y, x, h, w = geometry.box[i]
                crop = stored_pixels(dataset, sample)[y : y + h, x : x + w, :channels].astype(float)
                expected = np.einsum("ij,jkc,lk->cil", area_matrix(h, 24), crop, area_matrix(w, 24), optimize=True)
                expected = expected[..., ::-1] if geometry.flip[i, 1] else expected
                assert np.abs(view[i].numpy() - expected).max() < 0.51  # rounding


def test_ranks_that_resume_two_datasets_differ_from_the_cpu_loader_by_the_filter_only(
    make: Callable[..., ShardedDataset],
) -> None:
    """Each image is read from its own dataset's file; grey levels of 256 on average."""
    datasets, order = [make("jpg"), make("png", grow=2, name="other")], Order((10, 10), seed=1, batch=4)
    whole = LoaderSpec(datasets, "train", order, replace(SPEC, pair="patient"), seed=0)
    ranks = [FfcvLoader(replace(whole, rank=rank, world=2, workers=3, prefetch=1)) for rank in range(2)]
    batches = zip(CpuLoader(whole).iterate(2, 8), *(loader.iterate(2, 8) for loader in ranks), strict=True)
    for expected, *parts in batches:
        for part in parts:
            assert (part.step, part.epoch) == (expected.step, expected.epoch)
        for name in ("index", "images", "low", "high", "labels"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(expected, name)), name
        for v, view in enumerate(expected.views):
            assert torch.equal(torch.cat([part.flips[v] for part in parts]), expected.flips[v])
            off = (torch.cat([part.views[v] for part in parts]).float() - view.float()).abs()
            assert off.mean((1, 2, 3)).max() < 2


def test_views_of_several_sizes_are_those_of_each_alone(make: Callable[..., ShardedDataset]) -> None:
    dataset, several = make("jpg"), replace(SPEC, crops=({}, {"size": 16, "count": 3, "scale": (0.05, 0.25)}))
    (batch,) = ffcv(dataset, spec=several).iterate(0, 1)
    for view, of_view in enumerate(several.each):
        (only,) = ffcv(dataset, spec=alone(several, view)).iterate(0, 1)
        assert batch.views[view].shape[2:] == of_view.sides and torch.equal(batch.views[view], only.views[view])


def first_image(dataset: ShardedDataset) -> int:
    """The place of row 0's image in the file."""
    return int(Reader(dataset.root / "train.beton").records["f0"]["pointer"][0])


def test_a_damaged_jpeg_is_named(make: Callable[..., ShardedDataset]) -> None:
    dataset = make()
    with (dataset.root / "train.beton").open("r+b") as file:
        file.seek(first_image(dataset) + 300)
        file.write(b"\1\2\3\4")
    with pytest.raises(UserError, match=r"train\.beton: sample toy0 .*checksum"):
        list(ffcv(dataset, workers=2).iterate(0, 3))


def test_a_file_cut_short_under_a_running_epoch_is_named(make: Callable[..., ShardedDataset]) -> None:
    """Mapped into memory, it would end the process."""
    dataset = make("png")
    batches = ffcv(dataset, EvalOrder(10, 2), prefetch=0).iterate(0, 5)
    next(batches)
    os.truncate(dataset.root / "train.beton", first_image(dataset) + 100)
    with pytest.raises(UserError, match=r"train\.beton: sample toy2 cannot be read \(the file ends before it\)"):
        list(batches)


def rewritten(dataset: ShardedDataset, **changes: Any) -> ShardedDataset:
    (dataset.root / INFO_FILE).write_text(replace(dataset.info, **changes).to_json())
    return ShardedDataset.open(dataset.root)


def test_what_it_cannot_read_is_refused_at_once(
    make: Callable[..., ShardedDataset],
    make_dataset: Callable[..., ShardedDataset],
    radiograph: Callable[..., np.ndarray],
    images: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = make_dataset([radiograph(30, 40)], name="plain")
    with pytest.raises(UserError, match=r"plain has no train\.beton"):
        ffcv(plain, EvalOrder(1, 1))
    with pytest.raises(ValueError, match=r"up to 16 bits and 1 channels: use cpu"):
        ffcv(make_dataset([radiograph(30, 40, 16)], name="deep"), EvalOrder(1, 1))

    dataset = make()
    file = dataset.root / "train.beton"
    size = file.stat().st_size
    with pytest.raises(UserError, match=f"{size} bytes instead of 7"):
        ffcv(rewritten(dataset, betons={"train.beton": 7}))
    os.truncate(file, 1000)
    with pytest.raises(UserError, match=r"not usable \(truncated or damaged"):
        ffcv(rewritten(dataset, betons={"train.beton": 1000}))
    file.unlink()
    with pytest.raises(UserError, match=r"not usable .*No such file"):
        ffcv(dataset)

    other = make("jpg", name="other")  # the same sizes, but the manifest has one sample less
    shorter = with_beton(make_dataset(images()[:9], "jpg", "less"))
    (shorter.root / "train.beton").write_bytes((other.root / "train.beton").read_bytes())
    with pytest.raises(UserError, match="it holds other samples than the manifest"):
        ffcv(rewritten(shorter, betons=other.info.betons), EvalOrder(9, 3))

    monkeypatch.setattr("dira_scale.train.data.loaders.ffcv.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"_libffcv cannot be loaded .*dira_scale\.doctor.*install\.md"):
        ffcv(other)
