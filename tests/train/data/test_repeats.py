"""Repeats of samples, as a file of ``shard balance`` has them, are drawn as from a plain list of draws."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train.test_inputs import inputs

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.labels import LabelChoice
from dira_scale.train.data.order import Order
from dira_scale.train.data.repeats import KIND, Repeats, content
from dira_scale.train.data.selection import Selection


def weights(file: Path, datasets: list[ShardedDataset], counts: list[int], split: str = "train") -> str:
    """A file of these repeats."""
    table = pa.table({"end": np.cumsum(counts)}, metadata={KIND: json.dumps(content(datasets, split))})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return str(file)


def taken(order: Order, epoch: int) -> list[tuple[int, int]]:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    parts = order.positions(steps)
    return [(int(i), int(of)) for part in parts for i, of in zip(part.index, part.occurrence, strict=True)]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=20), st.integers(0, 3), st.sampled_from([1, 2, 4]), st.data())
@settings(max_examples=60, deadline=None)
def test_an_order_is_that_of_a_list_with_repeats(counts: list[int], epoch: int, batch: int, data: Any) -> None:
    """Draw d of the order without repeats is entry d of ``np.repeat``; also of two datasets, one of them drawn in part,
    of chosen samples, and of ranks."""
    first = data.draw(st.integers(1, len(counts) - 1))
    counts[0], parts = counts[0] + 4, data.draw(st.sampled_from([1, 2]))  # with draws
    counts[first:] = [counts[first] + 4, *counts[first + 1 :]] if parts == 2 else [0] * (len(counts) - first)
    shares = data.draw(st.sampled_from([None, (1.0, 0.5), (2.0, 1.0)]))
    remainder = data.draw(st.sampled_from(["drop", "wrap"]))
    repeats = Repeats(np.cumsum(counts))
    sizes = repeats.sizes([first, len(counts) - first])
    assert sizes == (sum(counts[:first]), sum(counts[first:]))
    chosen = np.arange(len(counts)) * 3 + 1
    selection = data.draw(st.sampled_from([None, Selection(chosen, 100, (first, len(counts) - first), (1.0, 1.0))]))
    common: dict[str, Any] = {"seed": 3, "batch": batch, "weights": shares, "remainder": remainder, "identity": "x"}
    order = Order(sizes, selection=selection, repeats=repeats, **common)
    plain = Order(sizes[:parts], **common | {"weights": shares and shares[:parts]})
    assert order.split_size == (100 if selection else len(counts)) and order.steps_per_epoch == plain.steps_per_epoch
    rows = np.repeat(chosen if selection else np.arange(len(counts)), counts)
    found = taken(order, epoch)
    assert [row for row, _ in found] == [rows[draw] for draw, _ in taken(plain, epoch)]
    assert len(set(found)) == len(found)  # each has views of its own
    assert {*np.flatnonzero(order.draws(np.arange(order.split_size)))} == {*rows}
    for step in range(3):
        whole = order.batch_at(step)
        for name in ("index", "occurrence"):
            ranks = [getattr(order.batch_at(step, rank, batch), name) for rank in range(batch)]
            np.testing.assert_array_equal(np.concatenate(ranks), getattr(whole, name))


def test_a_prefix_sum_is_mapped_and_no_draw_is_listed(tmp_path: Path, make_dataset: Any) -> None:
    dataset = make_dataset([np.full((8, 8), i, np.uint8) for i in range(6)])
    file = Path(weights(tmp_path / "w.arrow", [dataset], [3, 0, 1, 1000, 0, 2]))
    opened = Repeats.open(file, [dataset], "train")
    assert not opened.ends.flags.owndata and not opened.ends.flags.writeable
    again = pickle.loads(pickle.dumps(opened))
    assert len(pickle.dumps(opened)) < 500 and not again.ends.flags.owndata and again.identity == opened.identity
    large = Repeats(np.arange(1, 2 * 10**6 + 1) * 10**6)  # two trillion draws
    index = Order((2 * 10**12,), 0, 256, repeats=large).batch_at(10**9).index
    assert len(index) == 256 and index.max() < 2 * 10**6


def test_a_run_draws_by_the_file(make_dataset: Any, radiograph: Any, tmp_path: Path) -> None:
    """A sample's repeats are other views, a run goes on exactly, and without a file all is as it was."""
    dataset = make_dataset([radiograph(20, 20, seed=i) for i in range(6)], labels=[[i % 2] for i in range(6)])
    counts = [3, 0, 1, 4, 0, 2]
    file = weights(tmp_path / "w.arrow", [dataset], counts)
    plain, data = inputs([dataset.root]), inputs([dataset.root], weights=file)
    assert data.steps_per_epoch(2) == 5 and sorted(taken(data.order, 1)) == [
        (row, number) for row, count in enumerate(counts) for number in range(count)
    ]
    batches = list(data.train(2).iterate(0, 10))
    views = [view for batch in batches[:5] for view in batch.views[0][batch.index == 3].numpy()]
    assert len(views) == 4 == len({view.tobytes() for view in views})
    for resumed, batch in zip(inputs([dataset.root], weights=file).train(2).iterate(3, 10), batches[3:], strict=True):
        assert all(bool((mine == other).all()) for mine, other in zip(resumed.views, batch.views, strict=True))
    content = data.identity()
    assert data.order.identity == f"{plain.order.identity},{content.pop('repeats')}"
    assert content == plain.identity() and plain.order.repeats is None
    assert data.facts().keys() - plain.facts().keys() == {"the repeats of data.weights"}
    other = inputs([dataset.root], weights=weights(tmp_path / "other.arrow", [dataset], [3, 0, 1, 4, 1, 2]))
    assert other.identity() != data.identity() and taken(other.order, 0)[:8] != taken(data.order, 0)[:8]
    half = inputs([dataset.root], weights=file, fraction=0.5, crops=2)
    chosen = half.order.selection.samples
    assert half.order.epoch_size == 2 * sum(counts[row] for row in chosen)
    assert {row for row, _ in taken(half.order, 0)} <= {row for row in chosen.tolist() if counts[row]}


def test_a_label_that_no_draw_has_is_refused(make_dataset: Any, radiograph: Any, tmp_path: Path) -> None:
    images, labels = [radiograph(20, 20, seed=i) for i in range(4)], [[0], [1], [0], [0]]
    dataset = make_dataset(images, label_names=("sick",), labels=labels)
    inputs([dataset.root], weights=weights(tmp_path / "w", [dataset], [2, 1, 0, 1]), labels=LabelChoice(("sick",)))
    never = weights(tmp_path / "never", [dataset], [2, 0, 1, 1])
    with pytest.raises(UserError, match=rf"'sick' has no positive among 3 samples \(at data\.weights={never}\): leave"):
        inputs([dataset.root], weights=never, labels=LabelChoice(("sick",)))


def test_a_file_of_other_images_is_refused(make_dataset: Any, radiograph: Any, tmp_path: Path) -> None:
    splits, images = ["train", "train", "val", "val"], [radiograph(20, 20, seed=i) for i in range(8)]
    dataset = make_dataset(images[:4], splits=splits, labels=[[i % 2] for i in range(4)])
    other = make_dataset(images[4:], splits=splits, labels=[[1]] * 4, name="other")
    good, both = weights(tmp_path / "w", [dataset], [1, 2]), weights(tmp_path / "both", [dataset, other], [1, 2, 3, 4])
    assert inputs([dataset.root, other.root], weights=both).order.sizes == (3, 7)
    (tmp_path / "text").write_text("no Arrow" * 9)
    (tmp_path / "cut").write_bytes(Path(good).read_bytes()[:-40])
    refused = {
        good: (other, f"it is of split train of {dataset.hash[:12]}, not of split train of {other.hash[:12]}"),
        both: (dataset, "not of split train"),
        weights(tmp_path / "val", [dataset], [1, 2], "val"): (dataset, "it is of split val of"),
        weights(tmp_path / "short", [dataset], [1]): (dataset, "it is damaged"),
        weights(tmp_path / "many", [dataset], [1, 1001]): (dataset, "it is damaged"),
        str(tmp_path / "text"): (dataset, "Not an Arrow file"),
        str(tmp_path / "cut"): (dataset, ""),
        str(tmp_path / "absent"): (dataset, "No such file"),
    }
    for file, (of, words) in refused.items():
        with pytest.raises(UserError, match=rf"^data\.weights={re.escape(file)}: expected a file that .*: .*{words}"):
            inputs([of.root], weights=file)
    with pytest.raises(UserError, match=r"data\.negatives=1: set one of them to null"):
        inputs([dataset.root], weights=good, negatives=1)
