"""The stream loader: batches as the CPU loader's from local files, whatever the server and the disk do."""

import errno
import logging
import os
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import s3
from shard_server import serve

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.base.storage.retry import PATIENCE
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.cache import ages as cache_ages
from dira_scale.train.data.cache import folder as cache_folder
from dira_scale.train.data.cache.folder import open_cache
from dira_scale.train.data.cache.settings import CacheSettings
from dira_scale.train.data.cache.shards import MissingShardError, Shards
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.loaders.stream import StreamLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.selection import Selection
from dira_scale.train.data.views import ViewSpec

SPEC, EACH = ViewSpec(size=16), 6  # samples per shard


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, value in {"pause": 0.01, "silence": 5.0, "neighbour": 20.0}.items():
        monkeypatch.setattr(PATIENCE, name, value)


@pytest.fixture
def cut_up(make_dataset, radiograph):
    """A dataset of ``shards`` shards of EACH images."""

    def make(shards=4, name="toy", checksums=True):
        images = [radiograph(40 + i, 50, seed=i) for i in range(shards * EACH)]
        return make_dataset(images, name=name, per_shard=EACH, checksums=checksums)

    return make


@pytest.fixture
def server(tmp_path):
    with serve(tmp_path) as state:
        yield state


@pytest.fixture
def cache(tmp_path):
    return CacheSettings(str(tmp_path / "cache"), 1.0)


def far(server, name="toy"):
    return ShardedDataset.open(f"{server.url}/{name}", check_shards=False)


def order_of(dataset, **options):
    size = sum(dataset.info.counts.values())
    return Order((size,), **{"seed": 1, "batch": 4, "lanes": 1, "block": EACH} | options)


def stream(dataset, order, cache, **options):
    return StreamLoader(LoaderSpec([dataset], "train", order, SPEC, seed=0, **options), cache=cache)


def cpu(dataset, order, **options):
    return CpuLoader(LoaderSpec([dataset], "train", order, SPEC, seed=0, **options))


def everything(batches):
    """All that batches hold, as arrays."""
    for batch in batches:
        yield from (view.numpy() for view in batch.views)
        yield from (batch.index.numpy(), batch.low.numpy(), batch.high.numpy(), batch.labels.numpy())
        for distortion in batch.distortions:
            yield from (values.numpy() for values in distortion.tensors().values())


def assert_equal(ours, theirs):
    for a, b in zip(everything(ours), everything(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def loader_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("options", [{}, {"lanes": 2, "block": 4, "window": 2}])
def test_batches_are_the_cpu_loaders_and_each_shard_is_fetched_once(cut_up, server, cache, options):
    local = cut_up()
    order = order_of(local, **options)
    loader = stream(far(server), order, cache, workers=3)
    assert_equal(loader.iterate(0, 12), cpu(local, order).iterate(0, 12))
    assert {name: count for name, count in server.requested.items() if name.endswith("tar")} == dict.fromkeys(
        local.info.shards, 1
    )
    seconds = loader.seconds()
    assert seconds["fetched_mb"] * 1e6 == pytest.approx(sum(local.info.shards.values())) and seconds["skipped"] == 0
    assert seconds["fetch"] > 0 and not loader_threads()
    assert_equal(loader.iterate(5, 7), cpu(local, order).iterate(5, 7))  # a later start


def test_evaluation_and_a_mixture(cut_up, server, cache):
    local = [cut_up(), cut_up(name="other", checksums=False)]
    distant, order = [far(server), far(server, "other")], EvalOrder(8 * EACH, 10)
    spec = LoaderSpec(distant, "train", order, SPEC, seed=0, fixed_epoch=0, rank=1, world=2)
    loader, plain = StreamLoader(spec, cache=cache), CpuLoader(replace(spec, datasets=local))
    assert_equal(loader.iterate(0, order.steps), plain.iterate(0, order.steps))


def test_the_cache_never_holds_more_than_its_bound(cut_up, server, cache, tmp_path):
    local = cut_up(shards=8)
    largest, held = max(local.info.shards.values()), []
    settings = replace(cache, size=4.5 * largest / 1e9)
    order = order_of(local)
    loader = stream(far(server), order, settings, prefetch=1)
    stop = threading.Event()

    def look():
        while not stop.wait(0.001):
            with cache_ages.Ages(loader.cache.folder.folder).held():  # names do not change meanwhile
                found = [cache_ages.OURS.fullmatch(path.name) for path in Path(settings.folder).iterdir()]
            held.append(sum(int(match["size"]) for match in found if match))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        assert_equal(loader.iterate(0, 24), cpu(local, order).iterate(0, 24))
    finally:
        stop.set()
        watch.join()
    assert 0 < max(held) <= 4.5 * largest


def test_a_cache_that_is_too_small_for_the_order(cut_up, server, cache):
    """It is refused if some steps do not fit."""
    local = cut_up(shards=16)
    settings, wide = replace(cache, size=0.6 * sum(local.info.shards.values()) / 1e9), {"batch": 16, "block": 1}
    with pytest.raises(ArgumentError, match=r"cache.size: .*reads 15 shards at once") as caught:
        stream(far(server), order_of(local, **wide, lanes=16), settings, prefetch=1)
    size = float(caught.value.expected.split()[0])
    stream(far(server), order_of(local, **wide, lanes=16), replace(cache, size=size), prefetch=1)
    with pytest.raises(ArgumentError, match="at once"):
        stream(far(server), order_of(local), replace(cache, size=1e-6))


@pytest.mark.parametrize("fault", [429, ("wrong",)])
def test_a_server_that_recovers(cut_up, server, cache, fault):
    """Some files fail at the second request, others at the fourth."""
    local = cut_up()
    names = (*local.info.shards, "dataset.json", "manifest.parquet")
    server.faults = {name: [fault] * (1 if number % 2 else 3) for number, name in enumerate(names)}
    if fault == ("wrong",):  # shards have checksums of the whole file
        server.faults = {name: server.faults[name] for name in local.info.shards}
    order = order_of(local)
    loader = stream(far(server), order, cache)
    assert_equal(loader.iterate(0, 6), cpu(local, order).iterate(0, 6))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on_where_it_broke_if_the_server_knows_ranges(cut_up, server, cache, ranges):
    local = cut_up(shards=1)
    server.ranges = ranges
    server.faults = {"train-000000.tar": [("cut", n) for n in (100, 200, 300)]}
    order = order_of(local)
    loader = stream(far(server), order, cache)
    assert_equal(loader.iterate(0, 6), cpu(local, order).iterate(0, 6))
    starts, size = server.starts["train-000000.tar"], local.info.shards["train-000000.tar"]
    assert len(starts) == 4 and starts == sorted(starts) and (starts[-1] > 0) == ranges
    assert server.served["train-000000.tar"] == size - starts[-1] + 600


@pytest.mark.parametrize(
    ("fault", "message", "requests"),
    [
        (500, "train-000002.tar is unavailable .*500", PATIENCE.attempts),
        (404, "train-000002.tar is unavailable .*No such file", 1),
        (("wrong",), "train-000002.tar is unavailable .its checksum is not that of dataset.json", PATIENCE.attempts),
    ],
)
def test_a_shard_that_cannot_be_had_is_named_after_bounded_attempts(cut_up, server, cache, fault, message, requests):
    local = cut_up()
    server.faults, server.forever = {"train-000002.tar": [fault]}, True
    loader = stream(far(server), order_of(local), cache, workers=2)
    with pytest.raises(MissingShardError, match=message):
        list(loader.iterate(0, 6))
    assert server.requested["train-000002.tar"] == requests and not loader_threads()


def test_a_server_that_trickles_or_says_nothing_is_given_up(cut_up, server, cache, monkeypatch):
    local = cut_up(shards=1)
    monkeypatch.setattr(PATIENCE, "silence", 0.1)
    monkeypatch.setattr(PATIENCE, "attempts", 2)
    for fault, words in (("slow", 1, 0.02), r"only \d+ bytes in 0.1 s"), (("slow", 100, 5.0), "no byte in 0.1 s"):
        server.faults, server.forever = {"train-000000.tar": [fault]}, True
        server.requested.clear()
        with pytest.raises(MissingShardError, match=f"train-000000.tar is unavailable .{words}"):
            next(stream(far(server), order_of(local), cache).iterate(0, 1))
        assert server.requested["train-000000.tar"] == 2
    server.faults = {}
    loader = stream(far(server), order_of(local), cache)  # goes on from what has come
    assert_equal(loader.iterate(0, 6), cpu(local, order_of(local)).iterate(0, 6))
    assert server.starts["train-000000.tar"][-1] > 0


def test_closing_while_a_server_is_silent(cut_up, server, cache, monkeypatch):
    """The close waits neither for the server nor for further attempts."""
    monkeypatch.setattr(PATIENCE, "silence", 1000.0)
    local = cut_up()
    order = order_of(local)
    third = list(dict.fromkeys(order.batch_at(step).index[0] // EACH for step in range(6)))[-1]
    server.faults = {f"train-{third:06d}.tar": [("slow", 100, 1000.0)]}
    batches = stream(far(server), order, cache, workers=2, prefetch=6).iterate(0, 6)
    next(batches)
    assert loader_threads()
    batches.close()
    assert not loader_threads()


def test_a_second_iterator_inside_the_first(cut_up, server, cache):
    """As when a broken loss is looked into: the first goes on."""
    local = cut_up()
    order = order_of(local)
    loader, plain = stream(far(server), order, cache), cpu(local, order)
    with closing(loader.iterate(0, 6)) as outer:
        first = next(outer)
        with closing(loader.iterate(2, 3)) as inner:
            assert_equal(inner, plain.iterate(2, 3))
        assert_equal([first, *outer], plain.iterate(0, 6))


def test_a_shard_removed_at_its_origin_is_read_from_the_cache_and_one_removed_there_is_fetched_again(
    cut_up, server, cache
):
    local = cut_up()
    order, shards = order_of(local), sorted(local.root.glob("*.tar"))
    expected = list(cpu(local, order).iterate(0, 12))
    loader = stream(far(server), order, cache)
    with closing(loader.iterate(0, 12)) as batches:
        ours = [next(batches) for _ in range(6)]
        for path in Path(cache.folder).glob("train-00000[01]*.tar"):
            path.unlink()
        for path in shards[2:]:
            path.unlink()
        assert_equal([*ours, *batches], expected)
    assert {server.requested[path.name] for path in shards[2:]} == {1}
    for path in Path(cache.folder).glob("*.tar"):
        path.unlink()
    with pytest.raises(MissingShardError, match=r"train-00000[23].tar is unavailable .No such file"):
        list(stream(far(server), order, cache).iterate(0, 12))


def test_a_copy_that_went_bad_is_fetched_again_and_a_bad_original_is_named(cut_up, server, cache, caplog):
    local = cut_up(checksums=False)
    order = order_of(local)
    expected = list(cpu(local, order).iterate(0, 6))
    loader = stream(far(server), order, cache)
    assert_equal(loader.iterate(0, 6), expected)
    for path in Path(cache.folder).glob("train-000001*.tar"):
        path.write_bytes(bytes(path.stat().st_size))  # what a power failure leaves
    with caplog.at_level(logging.WARNING):
        assert_equal(loader.iterate(0, 6), expected)
    assert "copy of train-000001" in caplog.text and server.requested["train-000001.tar"] == 2
    path = local.root / "train-000001.tar"
    path.write_bytes(bytes(path.stat().st_size))
    for copy in Path(cache.folder).glob("*.tar"):
        copy.unlink()
    with pytest.raises(UserError, match=r"sample toy\d+ \(shard train-000001.tar.*checksum differs"):
        list(loader.iterate(0, 6))


def test_two_processes_share_the_cache(cut_up, server, cache):
    """One download of a shard for both. Threads here: a lock belongs to an open file, and each opens its own."""
    local = cut_up()
    server.faults = {name: [("slow", 3000, 0.1)] for name in local.info.shards}  # so that they meet
    order = order_of(local, lanes=2, block=1)
    loaders = [stream(far(server), order, cache, rank=rank, world=2) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for rank, batches in enumerate(pool.map(lambda loader: list(loader.iterate(0, 12)), loaders)):
            assert_equal(batches, cpu(local, order, rank=rank, world=2).iterate(0, 12))
    assert {name: server.requested[name] for name in local.info.shards} == dict.fromkeys(local.info.shards, 1)


def test_skipping_replaces_deterministically_and_counts(cut_up, server, cache, caplog, tmp_path):
    local = cut_up()
    (local.root / "train-000002.tar").unlink()
    order = order_of(local, batch=12, lanes=3, block=2)
    skipping = replace(cache, missing="skip")
    with caplog.at_level(logging.WARNING):
        loader = stream(far(server), order, skipping, workers=2)
        batches = list(loader.iterate(0, 4))
    assert caplog.text.count("train-000002.tar is unavailable") == 1 and "of its 6" in caplog.text
    skipped = 0
    for step, batch in enumerate(batches):
        planned, found = order.batch_at(step).index, batch.index.numpy()
        gone = planned // EACH == 2
        skipped += gone.sum()
        np.testing.assert_array_equal(found[~gone], planned[~gone])
        assert not (found // EACH == 2).any() and set(found[gone] // EACH) <= set(planned[~gone] // EACH)
        assert batch.labels[:, 0].tolist() == found.tolist()  # of the images that are shown
    assert loader.seconds()["skipped"] == skipped == 12
    twice = {int(i): 0 for batch in batches for i in batch.index}
    other = stream(far(server), order, replace(skipping, folder=str(tmp_path / "other")), workers=1, prefetch=0)
    assert_equal(other.iterate(0, 4), batches)
    assert len(twice) == 18  # all that there are
    for path in local.root.glob("*.tar"):
        path.unlink()
    with pytest.raises(UserError, match="all shards of step 0 are missing"):
        next(stream(far(server), order, replace(skipping, folder=str(tmp_path / "none"))).iterate(0, 1))


def test_what_takes_the_place_of_a_missing_shard_is_chosen_too(cut_up, server, cache):
    local = cut_up()
    (local.root / "train-000002.tar").unlink()
    chosen = np.arange(0, sum(local.info.counts.values()), 2)
    selection = Selection(chosen, 2 * len(chosen), (len(chosen),), (1.0,))
    order = Order((len(chosen),), seed=1, batch=6, lanes=1, block=EACH // 2, selection=selection)
    loader = stream(far(server), order, replace(cache, missing="skip"))
    shown = np.concatenate([batch.index.numpy() for batch in loader.iterate(0, 8)])
    assert set(shown) == set(chosen[chosen // EACH != 2]) and loader.seconds()["skipped"] > 0


def test_shards_of_another_disk_are_staged_and_those_of_the_same_are_read_in_place(cut_up, tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second disk here")
    local = cut_up()
    order = order_of(local)
    expected = list(cpu(local, order).iterate(0, 6))
    with tempfile.TemporaryDirectory(dir=other) as name:
        assert_equal(stream(local, order, CacheSettings(name, 1.0)).iterate(0, 6), expected)
        assert sorted(path.name[:12] for path in Path(name).glob("*.tar")) == [f"train-00000{i}" for i in range(4)]
        for path in Path(name).glob("*.tar"):
            assert path.read_bytes() == (local.root / f"{path.name[:12]}.tar").read_bytes()
    here = CacheSettings(str(tmp_path / "here"), 1.0)
    assert_equal(stream(local, order, here).iterate(0, 6), expected)
    assert not list((tmp_path / "here").glob("*.tar"))


def test_the_folder_of_shards_is_asked_once_where_it_is(cut_up, tmp_path, monkeypatch):
    local, asked, stat = cut_up(shards=8), Counter(), Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: asked.update([self]) or stat(self, **options))
    assert not Shards(SimpleNamespace(datasets=[local]), tmp_path).kept.any() and asked[local.root] == 2


def test_a_full_disk_is_the_users(cut_up, server, cache, monkeypatch):
    local = cut_up()
    original = cache_folder.FileIO.write

    class Full(cache_folder.FileIO):
        def write(self, data):
            if self.tell() > 2000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(self, bytes(data)[:1500])

    monkeypatch.setattr(cache_folder, "FileIO", Full)
    monkeypatch.setattr("dira_scale.train.data.cache.shards.POLL", 0.001)
    with pytest.raises(UserError, match=r"the cache .*cannot be written to: No space left"):
        list(stream(far(server), order_of(local), cache).iterate(0, 6))
    assert not loader_threads()
    monkeypatch.undo()
    usage = cache_folder.shutil.disk_usage("/")
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    for path in Path(cache.folder).glob("*.part"):
        path.unlink()
    with pytest.raises(UserError, match=r"the disk of the cache .* is full: 0.0 MB are free"):
        list(stream(far(server), order_of(local), cache).iterate(0, 6))


def test_s3(cut_up, cache):
    local = cut_up()
    with s3.bucket() as bucket:
        for path in local.root.iterdir():
            bucket.client.upload_file(str(path), s3.NAME, f"sets/toy/{path.name}")
        distant = ShardedDataset.open(f"{bucket.url}/sets/toy", check_shards=False)
        order = order_of(local)
        choice = choose("auto", [distant], cache=cache)
        assert choice.name == "stream" and "s3://bucket/sets/toy is not on this machine" in choice.why
        loader = choice.build(LoaderSpec([distant], "train", order, SPEC, seed=0))
        assert_equal(loader.iterate(0, 6), cpu(local, order).iterate(0, 6))
        bucket.client.delete_object(Bucket=s3.NAME, Key="sets/toy/train-000001.tar")
        next(Path(cache.folder).glob("train-000001*")).unlink()
        with pytest.raises(
            MissingShardError, match=r"s3://bucket/sets/toy/train-000001.tar is unavailable .No such fil"
        ):
            list(choice.build(LoaderSpec([distant], "train", order, SPEC, seed=0)).iterate(0, 6))


def test_what_is_chosen_and_refused(cut_up, server, cache):
    local, distant = cut_up(), far(server)
    assert choose("auto", [local]).name == "cpu" and choose("auto", [local, distant]).name == "stream"
    assert choose("auto", [local], cache=cache).name == "stream"
    assert "dira_scale-" in str(choose("auto", [distant]))
    with pytest.raises(
        ArgumentError, match=r"loader: expected stream, or no settings of a cache .folder .*, size 1.0.,"
    ):
        choose("cpu", [local], cache=cache)
    with pytest.raises(ArgumentError, match=r"cache: expected nothing: .* your own loader .*, got .'missing skip'"):
        choose({"_target_": "a.B"}, [local], cache=CacheSettings(missing="skip"))
    with pytest.raises(ArgumentError, match=r"cache.folder: expected a folder on a disk .*, got 's3://b/c'"):
        choose("stream", [local], cache=CacheSettings("s3://b/c")).build(
            LoaderSpec(datasets=[local], split="train", order=order_of(local), views=SPEC, seed=0)
        )
    with pytest.raises(ArgumentError, match=r"folder: expected another folder: Not a directory, got '/dev/null/x'"):
        open_cache(CacheSettings("/dev/null/x"))


def test_a_folder_of_the_users_is_no_cache(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"cache=.* holds files that this command has not written, such as mine"):
        open_cache(CacheSettings(str(tmp_path)))
    assert [*tmp_path.iterdir()] == [tmp_path / "mine.txt"]
    for folder in (tmp_path / "new", tmp_path / "new"):
        assert open_cache(CacheSettings(str(folder))).folder == folder


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, r"no sharded dataset at http.* \(HTTP 404\): check the address, [^=]*$"),
        (500, "dataset.json cannot be read"),
    ],
)
def test_a_dataset_that_is_not_there(cut_up, server, fault, message):
    cut_up()
    server.faults, server.forever = {"dataset.json": [fault]}, True
    with pytest.raises(UserError, match=message):
        far(server)
    assert server.requested["dataset.json"] == (1 if fault == 404 else PATIENCE.attempts)
