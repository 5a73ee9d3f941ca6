"""``data.block=auto``, and what an order fetches, against a cache that takes each batch of each node in turn."""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from harness import finish, pretrain
from shard_server import serve
from train.test_inputs import inputs

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.cache import traffic
from dira_scale.train.data.order import Order
from dira_scale.train.engine.task import Detail, StagePlan


def by_lru(order: Order, size: int, capacity: float, nodes: int) -> list[int]:
    """The shards of ``size`` samples that each node fetches in the second epoch."""
    found = []
    for node in range(nodes):
        held, count = OrderedDict[int, None](), 0
        for step in range(order.steps_per_epoch, 2 * order.steps_per_epoch):
            for shard in dict.fromkeys((order.batch_at(step, node, nodes).index // size).tolist()):
                count += shard not in held
                held[shard] = None
                held.move_to_end(shard)
                if len(held) > capacity:
                    held.popitem(last=False)
        found.append(count)
    return found


@pytest.mark.parametrize(
    ("order", "nodes", "capacity", "times"),
    [
        # Small ones of 10^8 images in shards of 1,000 on 128 nodes, which a full shuffle fetches 127.9 times.
        ({"sizes": (10**5,), "batch": 1000}, 10, np.inf, 10.0),
        ({"sizes": (10**5,), "batch": 1000, "block": 100}, 10, np.inf, 1.0),
        ({"sizes": (10**5,), "batch": 1024, "block": 100}, 8, np.inf, 1.9),  # each block lies in two shards
        ({"sizes": (10**5,), "batch": 1000, "block": 10}, 10, np.inf, 6.5),
        ({"sizes": (10**5,), "batch": 1000}, 10, 500, 51.9),
        ({"sizes": (10**5,), "batch": 96, "block": 100, "lanes": 4, "window": 2}, 1, 30, 2.0),
        ({"sizes": (40_000, 60_000), "weights": (0.5, 1.0), "batch": 100, "block": 50}, 2, 200, 16.7),
    ],
)  # fmt: skip
def test_what_is_fetched_is_what_a_cache_fetches(
    order: dict[str, Any], nodes: int, capacity: float, times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of shards of 100; to the last one where all steps are looked at, nearly where a tenth is."""
    made, each = Order(seed=3, **order), 100
    exact = by_lru(made, each, capacity, nodes)
    used = made.epoch_size / nodes / each
    assert np.mean(exact) / used == pytest.approx(times, rel=0.05)
    arguments: Any = made, lambda index: index // each, np.ones(1000), capacity, nodes
    first, epoch, total = traffic.fetched(*arguments)
    assert epoch == exact[0] and total == 1000
    assert first == len(np.unique(made.batch_at(0, 0, nodes).index // each))
    monkeypatch.setattr(traffic, "LOOKED_AT", made.epoch_size // nodes // 10)
    assert traffic.fetched(*arguments)[1] == pytest.approx(exact[0], rel=0.1)


def test_a_run_on_128_nodes() -> None:
    """The figures of the whole, of some of its steps; blocks of a shard's samples, from which others begin."""
    for block, times in ((1, 127.9), (64, 15.5), (1000, 2.0)):
        order = Order((10**8,), seed=0, batch=65536, block=block)
        _, epoch, _ = traffic.fetched(order, lambda index: index // 1000, np.full(10**5, 1000), np.inf, 128)
        assert epoch / (10**8 / 128) == pytest.approx(times, rel=0.1)


Make = Callable[..., ShardedDataset]
IMAGES = [np.full((16, 16), i, np.uint8) for i in range(60)]


@pytest.mark.parametrize(
    ("per_shard", "keys", "block"),
    [
        (3, {}, 1),
        (3, {"cache_size": 1.0}, 3),
        (3, {"loader": "stream"}, 3),
        (3, {"loader": "stream", "block": 1}, 1),
        (3, {"loader": "stream", "crops": 2}, 1),
        (3, {"loader": "stream", "negatives": 1}, 1),
        (3, {"loader": "stream", "fraction": 0.5}, 1),  # ten shards' images
        (6, {"loader": "stream"}, 1),
    ],
)
def test_blocks_are_of_a_shards_samples_where_whole_shards_are_fetched(
    make_dataset: Make, per_shard: int, keys: dict[str, Any], block: int
) -> None:
    """Sixteen shards or more: of fewer, blocks would hardly be shuffled."""
    root = make_dataset(IMAGES, per_shard=per_shard, labels=[[i % 2] for i in range(60)]).root
    data = inputs([root], **{"block": "auto", "missing": "stop"} | keys)
    assert data.order.block == data.data.block == block


def test_the_first_lines_say_what_is_fetched_or_opened(make_dataset: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 shards a process keeps 5 open."""
    dataset, plan = make_dataset(IMAGES, per_shard=2), StagePlan("x", 6, 10, 10)
    with serve(dataset.root.parent) as server:
        data = inputs([f"{server.url}/toy"], block="auto", batch=6, cache=str(dataset.root.parent / "cache"))
        assert data.order.block == 2
        lines = [line for line in data.summary(plan) if "fetches" in line]
    size = sum(dataset.info.shards.values()) / 1e6
    assert re.fullmatch(rf"data: the first epoch fetches {size:.1f} MB a node, 1\.0 x .*; the first step .* MB", *lines)
    data = inputs([dataset.root], missing="stop", batch=6)
    assert not [line for line in data.summary(plan) if "opens" in line]
    for opened in data.datasets:
        monkeypatch.setattr(opened, "most_open", 5)
    (line,) = [line for line in data.summary(plan) if "opens" in line]
    assert isinstance(line, Detail) and 40 <= int(re.findall(r"opens some (\d+) files for 60 samples", line)[0]) < 60
    data = inputs([dataset.root], missing="stop", batch=6, block=2, lanes=1)
    for opened in data.datasets:
        monkeypatch.setattr(opened, "most_open", 5)
    assert not [line for line in data.summary(plan) if "opens" in line]


@pytest.mark.system
def test_a_run_keeps_its_block(make_dataset: Make, tmp_path: Path) -> None:
    """Two processes begin with that of the main one; another place of its shards does not change the order."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64), np.uint8) for _ in range(48)]
    dataset = make_dataset(images, splits=["train"] * 40 + ["val"] * 8, per_shard=2)
    for name, cache, block in (("a", f"data.cache={tmp_path / 'cache'}", 2), ("b", "data.workers=1", 1)):
        run, words = tmp_path / name, ["model.encoder=test_resnet", "data.size=32"]
        finish(pretrain(run, dataset.root, *words, cache, "steps=1", ranks=2))
        finish(pretrain(run, dataset.root, *words, *([] if name == "a" else [f"data.cache={tmp_path / 'cache'}"])))
        assert yaml.safe_load((run / "config.yaml").read_text())["data"]["block"] == block
