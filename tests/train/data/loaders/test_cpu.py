"""The CPU loader against a slow reference: decode whole, crop, resize by an explicit filter matrix, flip."""

import threading

import numpy as np
import pytest
import torch

from dira_scale.base.errors import UserError
from dira_scale.dataset.pixels import codecs
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.views import ViewSpec, draw

SPEC = ViewSpec(size=24)


def cpu(dataset, order, **options):
    return CpuLoader(LoaderSpec([dataset], "train", order, SPEC, seed=0, **options))


def filter_matrix(source: int, target: int) -> np.ndarray:
    """Antialiased bilinear: a triangle as wide as the larger of the two pixel grids' spacings; rows add up to 1."""
    scale = source / target
    centre = (np.arange(target)[:, None] + 0.5) * scale
    weight = np.clip(1 - np.abs(np.arange(source) + 0.5 - centre) / max(scale, 1), 0, None)
    return weight / weight.sum(1, keepdims=True)


def slow_view(image, box, flip, size):
    y, x, h, w = box
    crop = image[y : y + h, x : x + w].astype(np.float64)
    view = filter_matrix(h, size) @ crop @ filter_matrix(w, size).T
    return view[:, ::-1] if flip else view


def slow_batch(images, order, step, spec, seed=0):
    positions = order.batch_at(step)
    heights, widths = np.array([image.shape for image in images])[positions.index].T
    for view in range(spec.count):
        geometry, _ = draw(spec, seed, positions.epoch, positions.index, positions.occurrence, view, heights, widths)
        yield np.stack(
            [
                slow_view(images[sample], geometry.box[i], geometry.flip[i, 1], spec.size)
                for i, sample in enumerate(positions.index)
            ]
        )


@pytest.mark.parametrize(
    ("codec", "bits", "channels"), [*((c, b, 1) for c in ("png", "jp2", "npy") for b in (8, 16)), ("png", 8, 3)]
)
def test_a_batch_equals_the_slow_reference(make_dataset, images, codec, bits, channels):
    """8 bits are rounded after rows and after columns, 16 bits once."""
    made, order = images(bits, channels), Order((10,), seed=1, batch=4)
    for step, batch in zip((1, 2), cpu(make_dataset(made, codec), order).iterate(1, 3), strict=True):
        assert batch.step == step and batch.index.tolist() == order.batch_at(step).index.tolist()
        assert batch.labels is not None and batch.labels[:, 0].tolist() == batch.index.tolist()
        assert batch.high.tolist() == [[2**bits - 1] * 2] * 4 and batch.low.tolist() == [[0, 0]] * 4
        assert {view.dtype for view in batch.views} == {torch.uint8 if bits == 8 else torch.uint16}
        for channel in range(channels):
            planes = [image.reshape(*image.shape[:2], -1)[..., channel] for image in made]
            for view, expected in zip(batch.views, slow_batch(planes, order, step, SPEC), strict=True):
                assert view.shape == (4, channels, 24, 24)
                error = np.abs(view[:, channel].numpy() - expected)
                assert error.max() < (1.05 if bits == 8 else 0.54) and error.mean() < 0.32


@pytest.mark.parametrize(("grow", "mean", "most"), [(1, 0.32, 0.85), (12, 0.5, 3)])
def test_jpeg(make_dataset, images, grow, mean, most):
    """Small images are decoded whole: only rounding. Large ones are decoded at 1/2 to 1/8 scale.

    There the DCT's own low-pass takes the triangle's place: half a grey level on average, 99 % within 3.
    """
    originals = images(grow=grow)
    dataset = make_dataset(originals, "jpg")
    decoded = [codecs.decode(dataset.read(row), "jpg") for row in range(10)]
    order = Order((10,), seed=1, batch=10)
    (batch,) = cpu(dataset, order).iterate(0, 1)
    for view, expected in zip(batch.views, slow_batch(decoded, order, 0, SPEC), strict=True):
        error = np.abs(view[:, 0].numpy() - expected)
        assert error.mean() < mean and np.percentile(error, 99) < most


def test_a_mixture_of_bits_keeps_the_values(make_dataset, radiograph):
    eight = make_dataset([radiograph(40, 40, 8, seed=i) for i in range(4)], "png", "eight")
    sixteen = make_dataset([radiograph(40, 40, 16, seed=i) for i in range(4)], "npy", "sixteen", ["other"])
    order = Order((4, 4), seed=0, batch=8)
    (batch,) = CpuLoader(LoaderSpec([eight, sixteen], "train", order, SPEC, seed=0)).iterate(0, 1)
    assert batch.views[0].dtype == torch.uint16 and batch.labels is None
    assert (batch.high == torch.where(batch.index < 4, 255.0, 65535.0)[:, None]).all()
    scaled = batch.to("cpu").views[0]
    assert all(0.1 < view.mean() < 0.9 for view in scaled)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_closing_early_leaves_no_thread(make_dataset, images):
    loader = cpu(make_dataset(images()), Order((10,), seed=1, batch=4), workers=3)
    iterator = loader.iterate(0, 1000)
    next(iterator)
    assert loader_threads()
    iterator.close()
    assert not loader_threads()


def test_an_undecodable_payload_is_named(make_dataset, images, monkeypatch):
    """The checksum is right and the decoder refuses: what was sharded was no image."""
    monkeypatch.setattr(codecs, "encode", lambda pixels, codec: b"no image")
    dataset = make_dataset(images())
    with pytest.raises(UserError, match=r"sample toy0 .*not a PNG"):
        next(cpu(dataset, EvalOrder(10, 4), workers=2).iterate(0, 1))
    assert not loader_threads()


def test_datasets_that_do_not_fit_are_refused(make_dataset, radiograph):
    grey, colour = make_dataset([radiograph(20, 20)], name="grey"), make_dataset([radiograph(20, 20, 8, 3)], name="rgb")
    with pytest.raises(UserError, match=r"channels \(1 in .*grey and 3 in .*rgb\)"):
        CpuLoader(LoaderSpec([grey, colour], "train", EvalOrder(2, 2), SPEC, seed=0))
    with pytest.raises(UserError, match="no split 'val'"):
        CpuLoader(LoaderSpec([grey], "val", EvalOrder(1, 1), SPEC, seed=0))
    for field, value, words in (("dims", 3, "volumes"), ("counts", {"train": 1, "val": 0}, "no sample in split 'val'")):
        object.__setattr__(grey.info, field, value)
        with pytest.raises(UserError, match=words):
            CpuLoader(LoaderSpec([grey], "val" if field == "counts" else "train", EvalOrder(1, 1), SPEC, seed=0))
        object.__setattr__(grey.info, "dims", 2)
