"""The DALI loader against the CPU loader, picture by picture; here on DALI's CPU backend, ``gpu`` tests on CUDA.

Differences seen, in grey levels of 256: 0.025 on average and at most 2 (rounding, and the filter at a crop's edges);
0.4 on average for JPEGs that the CPU loader decodes at a reduced scale.
"""

import gc
import threading
import time
import zlib
from pathlib import Path

import pytest
import torch
import xxhash
from needs import need_extra

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.views import ViewSpec

SPEC = ViewSpec(size=24)
ORDER = Order((10,), seed=1, batch=4)
STORED = [("png", 8), ("png", 16), ("jp2", 8), ("jp2", 16), ("jpg", 8)]


@pytest.fixture
def dali(request):
    """Builds the loader; its package is an extra. On a GPU machine `bench gpu` itself names what is missing."""
    if not request.node.get_closest_marker("gpu"):
        need_extra("dali")
    from dira_scale.train.data.loaders.dali import DaliLoader

    return lambda *arguments, **more: DaliLoader(LoaderSpec(*arguments, **more))


def cpu(*arguments):
    return CpuLoader(LoaderSpec(*arguments))


def differences(ours, theirs):
    """The differences of all pixels, in grey levels of 256; everything else in the batches must be equal."""
    found = []
    for a, b in zip(ours, theirs, strict=True):
        assert (a.step, a.epoch) == (b.step, b.epoch)
        for name in ("index", "low", "high", "labels"):
            assert torch.equal(getattr(a, name).cpu(), getattr(b, name))
        for flips, expected in zip(a.flips, b.flips, strict=True):
            assert torch.equal(flips.cpu(), expected)
        for view, expected in zip(a.views, b.views, strict=True):
            assert view.shape == expected.shape and view.dtype == expected.dtype
            levels = 1 if view.dtype == torch.uint8 else 257
            found.append((view.cpu().float() - expected.float()).abs().flatten() / levels)
    return torch.cat(found)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("codec", "bits"), STORED)
def test_the_views_are_those_of_the_cpu_loader(dali, make_dataset, images, codec, bits, channels):
    """Sizes differ within a batch, and some crops are enlarged.

    Of 8 bits the CPU loader rounds rows and columns, DALI only the result: a level apart in a sixth of the pixels.
    """
    dataset = make_dataset(images(bits, channels), codec)
    arguments = ([dataset], "train", ORDER, SPEC, 0)
    ours, theirs = dali(*arguments), cpu(*arguments)
    difference = differences(ours.iterate(0, 5), theirs.iterate(0, 5))
    assert difference.mean() < (0.25 if bits == 8 else 0.05) and difference.max() < 5
    assert min(ours.seconds()[part] for part in ("wait", "read", "decode", "transform")) > 0


def mixture(make_dataset, radiograph):
    """Grey images in four forms."""
    forms = [("png", 8), ("png", 16), ("jp2", 16), ("jpg", 8)]
    return [
        make_dataset([radiograph(50 + 9 * d, 70, bits, seed=10 * d + i) for i in range(4)], codec, f"{codec}{bits}")
        for d, (codec, bits) in enumerate(forms)
    ]


def test_codecs_and_depths_mix_within_a_batch(dali, make_dataset, radiograph):
    order = Order((4, 4, 4, 4), seed=0, batch=16)
    arguments = (mixture(make_dataset, radiograph), "train", order, SPEC, 0)
    ours, theirs = (list(loader(*arguments).iterate(0, 2)) for loader in (dali, cpu))
    assert set(ours[0].index.tolist()) == set(range(16)) and ours[0].views[0].dtype == torch.uint16
    for a, b in zip(ours, theirs, strict=True):
        for view, expected in zip(a.views, b.views, strict=True):
            levels = a.high[:, 0] / 255
            difference = (view.float() - expected.float()).abs().flatten(1) / levels[:, None]
            assert difference.mean(1).max() < 0.3 and difference.max() < 4


def test_what_dali_has_made_serves_the_next_iteration(dali, make_dataset, images, monkeypatch):
    """As in validation, where each epoch iterates: the same batches again, by the same views; not after an error."""
    from dira_scale.train.data.loaders import dali as module

    made, original = [], module.DaliViews
    monkeypatch.setattr(module, "DaliViews", lambda *arguments: made.append(original(*arguments)) or made[-1])
    arguments = ([make_dataset(images())], "train", EvalOrder(10, 4), SPEC, 0)
    loader = dali(*arguments, fixed_epoch=0)
    first, second = (list(loader.iterate(0, 3)) for _ in range(2))
    assert differences(second, first).max() == 0 and len(made) == 1
    with pytest.raises(ZeroDivisionError):
        for _ in loader.iterate(0, 3):
            monkeypatch.setattr(made[0], "make", lambda *_: 1 / 0)
    assert len(list(loader.iterate(0, 3))) == 3 and len(made) == 2


def native_threads():
    """The threads of this process, Python's or not."""
    return len(list(Path("/proc/self/task").iterdir()))


def test_closing_early_leaves_no_thread(dali, make_dataset, images):
    loader = dali([make_dataset(images())], "train", ORDER, SPEC, 0, workers=3)
    next(loader.iterate(0, 1000))  # what DALI keeps for the process is there from now on
    gc.collect()
    before = native_threads()
    iterator = loader.iterate(0, 1000)
    next(iterator)
    assert native_threads() >= before + 3
    iterator.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
    end = time.monotonic() + 10
    while native_threads() > before and time.monotonic() < end:  # a thread that was joined is listed a moment longer
        time.sleep(0.01)
    assert native_threads() <= before


def damage(dataset, row, change):
    """The payload of ``row`` changed, in a manifest that knows its new checksum."""
    shard = dataset.root / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    offset, size = (int(dataset.column(name)[row]) for name in ("offset", "size"))
    payload = bytearray(content[offset : offset + size])
    change(payload)
    content[offset : offset + size] = payload
    shard.write_bytes(content)
    opened = ShardedDataset.open(dataset.root)
    opened.checksums[row] = xxhash.xxh3_64_intdigest(bytes(payload))
    return opened


def cut(payload):
    payload[len(payload) // 2 :] = bytes(len(payload) - len(payload) // 2)


def replaced(payload):
    payload[:] = b"no image".ljust(len(payload))


def bomb(payload):
    """A PNG that announces 60,000 by 60,000 pixels, with the right checksum of its header."""
    payload[16:24] = (60_000).to_bytes(4, "big") * 2
    payload[29:33] = zlib.crc32(payload[12:29]).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("codec", "change", "reason"),
    [
        *((codec, cut, "DALI does not decode it") for codec in ("png", "jp2", "jpg")),
        ("png", replaced, "not a PNG"),
        ("jpg", replaced, "JPEG"),
        ("png", bomb, "its header says 60000 x 60000 pixels, expected 50 x 90"),
    ],
)
def test_a_damaged_payload_is_named(dali, make_dataset, images, codec, change, reason):
    """Its checksum is right: what was sharded was damaged. Nothing hangs, and the loader goes on to work."""
    dataset = make_dataset(images(), codec)
    loader = dali([damage(dataset, 6, change)], "train", EvalOrder(10, 4), SPEC, 0, workers=2)
    iterator = loader.iterate(0, 3)
    next(iterator)
    offset = int(dataset.column("offset")[6])
    with pytest.raises(UserError, match=rf"toy: sample toy6 \(shard train-000000.tar, offset {offset}\).*{reason}"):
        next(iterator)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]
    assert len(next(loader.iterate(0, 1)).index) == 4


def test_what_dali_does_not_read_is_refused(dali, make_dataset, radiograph):
    for name, image, codec, message in (
        ("raw", radiograph(20, 20), "npy", "does not read codec npy"),
        ("four", radiograph(20, 20, 8, 4), "png", "reads images of 1 or 3 channels, these have 4: use cpu"),
    ):
        with pytest.raises((ValueError, UserError), match=message):
            dali([make_dataset([image], codec, name)], "train", EvalOrder(1, 1), SPEC, 0)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("codec", "bits", "mean"), [("png", 8, 0.25), ("jp2", 8, 0.25), ("jp2", 16, 0.05), ("jpg", 8, 0.6)]
)
def test_the_views_of_a_gpu_are_those_of_the_cpu_loader(dali, make_dataset, images, codec, bits, mean):
    """JPEG decoders may differ by a level; of 8 bits the CPU loader rounds twice, as above."""
    arguments = ([make_dataset(images(bits), codec)], "train", ORDER, SPEC, 0)
    ours = list(dali(*arguments, device="cuda").iterate(0, 5))
    assert all(view.is_cuda for batch in ours for view in batch.views)
    difference = differences(ours, cpu(*arguments).iterate(0, 5))
    assert difference.mean() < mean and difference.max() < 8


@pytest.mark.gpu
def test_a_slow_consumer_sees_its_batches_unchanged(dali, make_dataset, images):
    """Batches are read on a stream that lags behind, and dropped before it has read them."""
    arguments = ([make_dataset(images(grow=4), "jpg")], "train", ORDER, SPEC, 0)
    expected = [view.float().sum((1, 2, 3)).cpu() for batch in dali(*arguments, device="cuda").iterate(0, 20)
                for view in batch.views]  # fmt: skip
    lagging, seen = torch.cuda.Stream(), []
    with torch.cuda.stream(lagging):
        for batch in dali(*arguments, device="cuda").iterate(0, 20):
            torch.cuda._sleep(20_000_000)  # some 10 ms
            seen += [view.float().sum((1, 2, 3)) for view in batch.views]
            del batch
    lagging.synchronize()
    for sums, reference in zip(seen, expected, strict=True):
        assert torch.equal(sums.cpu(), reference)
