"""What goes wrong with shards under a running epoch ends in one error that names shard and sample, in every loader."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train.data.loaders.backends import SLOW, build, parameters

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.order import EvalOrder
from dira_scale.train.data.views import ViewSpec

COUNT = 12


@pytest.fixture
def arguments(make_dataset: Callable[..., ShardedDataset], radiograph: Callable[..., np.ndarray]) -> dict[str, Any]:
    dataset = make_dataset([radiograph(60, 70, seed=i) for i in range(COUNT)], "jpg")
    order = EvalOrder(COUNT, 4)
    return {"datasets": [dataset], "split": "train", "order": order, "views": ViewSpec(size=16), "seed": 0}


def shard_of(arguments: dict[str, Any]) -> Path:
    path: Path = arguments["datasets"][0].root / "train-000000.tar"
    return path


def error_of(name: str, arguments: dict[str, Any]) -> str:
    """The error that loading all ends in; the batches before it are whole."""
    with pytest.raises(UserError) as caught:
        for batch in build(name, **arguments, prefetch=1).iterate(0, 3):
            assert len(batch.index) == 4
    return str(caught.value)


def cut(path: Path, offset: int) -> None:
    path.write_bytes(path.read_bytes()[: offset + 5])


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset + 200] ^= 0x10
    path.write_bytes(content)


DAMAGES = [(flip, "toy7.*checksum"), (cut, r"toy(7|8|9|10|11)\b"), (lambda path, _: path.unlink(), "No such file")]
LOADERS = [(each.values[0], each.marks) for each in parameters()]  # a slow one has the first damage alone


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        pytest.param(name, *damage, marks=marks)
        for name, marks in LOADERS
        for damage in DAMAGES[: 1 if name in SLOW else 3]
    ],
)
def test_a_damaged_shard(arguments: dict[str, Any], name: str, damage: Callable[..., None], words: str) -> None:
    damage(shard_of(arguments), int(arguments["datasets"][0].column("offset")[7]))
    printed = error_of(name, arguments)
    assert "train-000000.tar" in printed and "toy" in printed and re.search(words, printed)


@pytest.mark.parametrize("name", parameters())
def test_a_shard_deleted_under_a_running_epoch(arguments: dict[str, Any], name: str) -> None:
    """An open shard goes on to the end; nothing is skipped or repeated. ``stream`` opens a shard for each reading, and
    each process of ``helper`` opens it itself, the second one perhaps too late."""
    batches = build(name, **arguments, prefetch=1).iterate(0, 3)
    first = next(batches)
    shard_of(arguments).unlink()
    if name == "stream":
        with pytest.raises(UserError, match=r"shard .*train-000000.tar is unavailable \(No such file"):
            list(batches)
        return
    seen = [first.index.tolist()]
    try:
        seen += [batch.index.tolist() for batch in batches]
    except UserError as error:
        assert name == "helper" and "No such file" in str(error)
        return
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
