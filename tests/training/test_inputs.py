"""From ``data.*`` to datasets, order and loaders, and what is refused at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from dira_scale.config.compose import compose
from dira_scale.data.config import Data
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError
from dira_scale.methods import views_of
from dira_scale.planning.shards import planned_inputs
from dira_scale.training.inputs import Inputs, _paths


@pytest.mark.parametrize(
    ("shards", "expected"),
    [("a", {"a": 1.0}), (["a", "b"], {"a": 1.0, "b": 1.0}), ({"a": 2, "b": 0.5}, {"a": 2, "b": 0.5})],
)
def test_shards_are_one_several_or_weighted(shards: object, expected: dict[str, float]) -> None:
    assert _paths(shards) == expected


@pytest.mark.parametrize("shards", [{"a": 0}, {"a": "much"}, 7])
def test_other_shards_are_refused_by_key(shards: object) -> None:
    with pytest.raises(UserError, match=r"data\.shards="):
        _paths(shards)


def inputs(shards: list[Path], **keys: Any) -> Inputs:
    """With the first dataset's only split to train on."""
    rest = {"split": "train", "size": 16, "batch": 2, "block": 1, "window": 1, "remainder": "drop", "loader": "auto"}
    rest |= {"fraction": 1.0, "fraction_seed": 0}
    data = Data(shards=[str(path) for path in shards], workers=1, prefetch=1, **(rest | keys))
    return Inputs(data, ViewSpec(size=data.size), seed=0, rank=0, ranks=1)


def test_the_identity_is_content_order_and_views(make_dataset: Any, radiograph: Any) -> None:
    dataset = make_dataset([radiograph(20, 20, seed=i) for i in range(4)])
    expected = {"datasets": [{"hash": dataset.hash, "weight": 1.0}], "order_version": 1, "views_version": 2}
    assert inputs([dataset.root]).identity() == expected


def test_what_is_chosen_is_trained_on_and_is_part_of_the_identity(make_dataset: Any, radiograph: Any) -> None:
    """Image 0 is negative and 1 to 7 are positive: of six patients it is one, as labels keep their shares."""
    dataset = make_dataset([radiograph(20, 20, seed=i) for i in range(8)])
    everything, some = inputs([dataset.root]), inputs([dataset.root], fraction=0.75, fraction_seed=3, negatives=1)
    content = some.identity()
    assert some.order.identity == f"{everything.order.identity},{content.pop('selection')}"
    assert content == everything.identity()
    seen = list(some.train(2).iterate(0, some.steps_per_epoch(2)))
    index = np.concatenate([batch.index for batch in seen]).tolist()
    assert len(index) == 10 and index.count(0) == 5 and len(set(index)) == 6
    assert [row[0] for batch in seen for row in batch.labels.tolist()] == index  # under the samples' own numbers
    assert planned(dataset, "data.fraction=0.75", "data.negatives=1") == 10 and planned(dataset) == 8
    for words, said in (
        ({"fraction": 0.0}, "fraction=0.0: must be above 0 and at most 1"),
        ({"fraction": 1.5}, "fraction=1.5: must be above 0 and at most 1"),
        ({"negatives": 0}, "negatives=0: must be at least 1, or null"),
        ({"fraction": 0.5, "negatives": 1}, r"no negative .* in split 'train' at data\.fraction=0\.5; use data\.neg"),
        ({"fraction": 0.1, "batch": 4}, r"1 samples that data\.fraction=0\.1 leaves do not fill one global batch of 4"),
    ):
        with pytest.raises(UserError, match=said):
            inputs([dataset.root], **words)


def planned(dataset: ShardedDataset, *words: str) -> int:
    more = [f"data.shards={dataset.root}", "data.batch=2", "data.val_split=null", "data.loader=cpu"]
    cfg = compose("plan", ["experiment=small", *more, *words])
    return planned_inputs(OmegaConf.to_object(cfg), views_of(cfg), 1)[0]


def test_what_cannot_be_read_is_refused_at_once(make_dataset: Any, radiograph: Any) -> None:
    grey = make_dataset([radiograph(20, 20, seed=i) for i in range(4)], name="grey")
    colour = make_dataset([radiograph(20, 20, 8, 3)], name="colour")
    with pytest.raises(UserError, match=r"number of channels \(1 in .*grey and 3 in .*colour\)"):
        inputs([grey.root, colour.root])
    with pytest.raises(UserError, match=r"data\.loader=gpu: expected auto, cpu"):
        inputs([grey.root], loader="gpu")
    info = grey.root / "dataset.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"counts": {"train": 4, "val": 0}}))
    with pytest.raises(UserError, match=r"no sample in split 'val'; data.val_split=null trains without validation"):
        inputs([grey.root], val_split="val")
    info.write_text(json.dumps(json.loads(info.read_text()) | {"counts": {"val": 0, "train": 4}}))
    with pytest.raises(UserError, match=r"no sample in split 'val'\. .*recipe\.splits='{train: 1, val: 0, test: 0}'"):
        inputs([grey.root], split="val")


def test_a_run_that_will_keep_shards_in_a_cache_is_planned_without_one(
    make_dataset: Callable[..., ShardedDataset], tmp_path: Path
) -> None:
    dataset = make_dataset([np.zeros((40, 40), np.uint8)] * 6, "png")
    words = [
        "experiment=small",
        f"data.shards={dataset.root}",
        "data.batch=2",
        "data.loader=stream",
        "data.val_split=null",
    ]
    cfg = compose("plan", [*words, f"data.cache={tmp_path / 'cache'}", "data.missing=skip"])
    assert planned_inputs(OmegaConf.to_object(cfg), views_of(cfg), 1) == (6, 0.0)
    assert not (tmp_path / "cache").exists()
