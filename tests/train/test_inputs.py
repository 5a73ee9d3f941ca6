"""From ``data.*`` to datasets, order and loaders, and what is refused at once."""

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import DatasetError, ShardedDataset
from dira_scale.fleet.forecast.estimate import planned_inputs
from dira_scale.train.data.config import Data
from dira_scale.train.data.geometry.fixed import centre, ten_crops
from dira_scale.train.data.labels import LabelChoice
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.selection import select
from dira_scale.train.data.sizes import SmallError, require_fit
from dira_scale.train.data.views import ViewSpec, fixed_views
from dira_scale.train.inputs import Inputs
from dira_scale.train.methods import views_of
from dira_scale.train.opened import weights_of
from dira_scale.train.sampling import Sampling

NAN = float("nan")


def test_shards_are_one_several_or_weighted() -> None:
    assert [weights_of(shards) for shards in ("a", ["a", "b"], {"a": 2, "b": 0.5})] == [
        {"a": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 0.5},
    ]  # fmt: skip
    for wrong in ({"a": 0}, {"a": "much"}, 7):
        with pytest.raises(UserError, match=r"data\.shards="):
            weights_of(wrong)


def inputs(shards: list[Path], **keys: Any) -> Inputs:
    """With the first dataset's only split to train on."""
    rest = {"split": "train", "size": 16, "batch": 2, "block": 1, "window": 1, "remainder": "drop", "loader": "auto"}
    rest |= {"fraction": 1.0, "fraction_seed": 0}
    requested = {
        name: keys.pop(name) for name in ("masks", "held_out_views", "labels", "rank", "ranks") if name in keys
    }
    views = keys.pop("views", None)
    data = Data(shards=[str(path) for path in shards], workers=1, prefetch=1, **(rest | keys))
    return Inputs(data, views or ViewSpec(size=data.size), seed=0, **({"rank": 0, "ranks": 1} | requested))


def test_each_rank_looks_for_its_share_of_the_shards_by_one_question_each(
    make_dataset: Any, radiograph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its loader for none: together the ranks find what is missing."""
    dataset = make_dataset([radiograph(20, 20, seed=i) for i in range(12)], per_shard=1)
    asked, stat = list[str](), os.stat

    def counted(path: Any, *rest: Any, **named: Any) -> os.stat_result:
        asked.append(str(path))
        return stat(path, *rest, **named)

    monkeypatch.setattr(os, "stat", counted)
    shares = []
    for rank in range(4):
        asked.clear()
        opened = inputs([dataset.root], batch=4, rank=rank, ranks=4)
        next(iter(opened.train(4).iterate(0, 1)))
        shares.append([name for name in asked if name.endswith(".tar")])
    assert [len(share) for share in shares] == [3] * 4 and len({name for share in shares for name in share}) == 12
    (dataset.root / "train-000005.tar").unlink()
    with pytest.raises(DatasetError, match=r"shard .*train-000005.tar is missing"):
        inputs([dataset.root], batch=4, rank=1, ranks=4)


def test_the_identity_is_content_order_and_views(make_dataset: Any, radiograph: Any) -> None:
    dataset = make_dataset([radiograph(20, 20, seed=i) for i in range(4)])
    expected = {"datasets": [{"hash": dataset.hash, "weight": 1.0}], "order_version": 1, "views_version": 2}
    assert inputs([dataset.root]).identity() == expected


def test_what_is_asked_of_all_samples_takes_no_list_of_them(make_dataset: Any, radiograph: Any) -> None:
    """Of eight million that are the same one: none without need, a million at once where sides are compared."""
    dataset = make_dataset([radiograph(20, 20)])
    samples, many = Samples([dataset], "train"), 2**23
    samples.rows, samples.sizes, samples._ends = [np.broadcast_to(0, many)], (many,), np.array([many])
    assert len(next(Sampling((many,), (1.0,), None, None, "").samples)) <= 2**20
    for views, most in ((ViewSpec(size=16), 10**5), (fixed_views(16, centre(2, 0.5)), 10**5),
                        (fixed_views(16, centre(2, extent=(20, 20))), 10**8)):  # fmt: skip
        tracemalloc.start()
        require_fit(samples, views)
        assert tracemalloc.get_traced_memory()[1] < most
        tracemalloc.stop()
    samples.datasets[0].index.records["height"][:] = 19
    with pytest.raises(SmallError, match=f"fewer than a crop of 20 x 20, as have {many} of {many} in"):
        require_fit(samples, fixed_views(16, centre(2, extent=(20, 20))))


def test_several_crops_of_an_image_are_drawn_in_each_epoch(make_dataset: Any, radiograph: Any) -> None:
    """A selection's images have as many, and with one crop the order is what it was."""
    dataset = make_dataset([radiograph(20, 20, seed=i) for i in range(6)])
    data = inputs([dataset.root], crops=3)
    assert data.steps_per_epoch(2) == 9 and data.identity() == inputs([dataset.root]).identity()
    for epoch in range(3):
        parts = data.order.positions(range(9 * epoch, 9 * epoch + 9))
        seen = [(int(i), int(of)) for part in parts for i, of in zip(part.index, part.occurrence, strict=True)]
        assert sorted(seen) == [(i, of) for i in range(6) for of in range(3)]
    views = {batch.views[0][batch.index == 0].numpy().tobytes() for batch in data.train(2).iterate(0, 9)} - {b""}
    assert len(views) == 3
    assert inputs([dataset.root], crops=1).order == inputs([dataset.root]).order
    assert inputs([dataset.root], crops=4, fraction=0.5).steps_per_epoch(2) == 6


def test_masks_come_where_they_are_asked_for(make_dataset: Any, radiograph: Any) -> None:
    """In training and of held-out images: here a mask is where its image is bright, at the crops' own resolution."""
    images = [radiograph(16, 16, seed=i) for i in range(6)]
    splits = ["train"] * 4 + ["val"] * 2
    dataset = make_dataset(images, masks=[np.uint8(image > 127) for image in images], splits=splits)
    data = inputs([dataset.root], val_split="val", masks=True, views=fixed_views(16, centre(2)))
    held_out = data.held_out(2, None)
    assert held_out is not None
    for batch in (next(data.train(2).iterate(0, 1)), next(held_out.batches())[0]):
        assert batch.mask is not None
        for view, mask in zip(batch.views, batch.mask.unbind(1), strict=True):
            assert torch.equal(mask, (view[:, 0] > 127).to(torch.int16))
    assert next(inputs([dataset.root]).train(2).iterate(0, 1)).mask is None
    without = make_dataset(images, name="without")
    with pytest.raises(UserError, match="without: no sample in split 'train' has a mask"):
        inputs([without.root], masks=True)


def test_held_out_images_have_views_of_their_own(make_dataset: Any, radiograph: Any) -> None:
    images = [radiograph(32, 32, seed=i) for i in range(7)]
    dataset = make_dataset(images, splits=["train"] * 4 + ["val"] * 2 + ["test"])
    plain = inputs([dataset.root], val_split="val")
    data = inputs([dataset.root], val_split="val", held_out_views=fixed_views(16, centre(2, 0.5)))
    for ours, theirs in zip(data.train(2).iterate(0, 2), plain.train(2).iterate(0, 2), strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours.views, theirs.views, strict=True))
    (batch, _), (before, _) = (next(each.held_out(2, None).batches()) for each in (data, plain))  # type: ignore[union-attr]
    assert len(before.views) == 2
    for i, view in zip((4, 5), batch.views[0], strict=True):
        np.testing.assert_array_equal(view[0], images[i][8:24, 8:24])
    ten = fixed_views(16, ten_crops(2, 0.5))
    ((batch, counted),) = data.evaluation("test_split", "test", ten, 4).batches()
    assert len(batch.views) == 10 and counted == 1
    np.testing.assert_array_equal(batch.views[0][0, 0], images[6][:16, :16])
    with pytest.raises(UserError, match=r"test_split=tset: .*toy has train, val, test; did you mean 'test'"):
        data.evaluation("test_split", "tset", ten, 4)


def test_chosen_labels_come_and_must_be_there_to_be_learned(make_dataset: Any) -> None:
    """Twenty patients, of whom two have `b`: a tenth of them keeps one. In `val` it may be lacking, but not unknown."""
    rows = [[i, i % 2, float(i in (0, 10)), NAN if i > 19 else 1] for i in range(22)]
    images, splits = [np.full((16, 16), i, np.uint8) for i in range(22)], ["train"] * 20 + ["val"] * 2
    dataset = make_dataset(images, label_names=("number", "a", "b", "c"), labels=rows, splits=splits)
    data = inputs([dataset.root], val_split="val", labels=LabelChoice(("b", "a")))
    for batch in data.train(2).iterate(0, 3):
        index = batch.index
        assert torch.equal(batch.labels, torch.stack([index % 10 == 0, index % 2 == 1], 1).float())  # type: ignore[arg-type]
    (held_out, _) = next(data.held_out(2, None).batches())  # type: ignore[union-attr]
    assert held_out.labels.tolist() == [[0, 0], [0, 1]]  # type: ignore[union-attr]
    assert next(inputs([dataset.root]).train(2).iterate(0, 1)).labels.shape == (2, 4)  # type: ignore[union-attr]
    fraction = {"fraction": 0.05, "batch": 1}
    for choice, keys, printed in (
        (("a", "number"), {}, r"toy, split 'train': label 'number' has the value [2-9]: need 0, 1, -1"),
        (("c",), {}, r"toy, split 'train': label 'c' has no negative among 20 samples: leave it out$"),
        (
            ("a", "b"),
            fraction,
            r"data.fraction=0.05: expected 0.1 or more: 1 of 20 patients cannot have a positive of every label",
        ),
    ):
        with pytest.raises(UserError, match=printed):
            inputs([dataset.root], labels=LabelChoice(choice), **keys)
    zeros = LabelChoice(("a", "c"), unknown="zeros")
    rows[0][3] = 0.0
    other = make_dataset(images, name="other", label_names=("number", "a", "b", "c"), labels=rows, splits=splits)
    inputs([other.root], val_split="val", labels=zeros)
    with pytest.raises(UserError, match=r"other, split 'val': label 'c' is unknown in all 2 samples"):
        inputs([other.root], val_split="val", labels=LabelChoice(("a", "c")))
    with pytest.raises(
        UserError,
        match=r"split 'train': label 'c' has no negative .*at data.fraction=0.5.: use a larger .*: task.labels=.a.",
    ):
        inputs([other.root], fraction=0.5, batch=1, labels=zeros, fraction_seed=unlucky(other))


def test_held_out_splits_never_shrink(make_dataset: Any, tmp_path: Path) -> None:
    """Whatever is left of the training split; a patient who is excluded is in none of its batches."""
    images = [np.full((16, 16), i, np.uint8) for i in range(30)]
    splits = ["train"] * 20 + ["val"] * 6 + ["test"] * 4
    dataset = make_dataset(images, splits=splits, labels=[[i % 2] for i in range(30)])
    (tmp_path / "gone.txt").write_text("p3\np7\np21\n")
    keys: dict[str, Any] = {"fraction": 0.5, "exclude": str(tmp_path / "gone.txt"), "negatives": 1, "val_split": "val"}
    start, end = inputs([dataset.root], **keys), inputs([dataset.root], fraction_from="end", **keys)
    seen = [
        {i for batch in data.train(2).iterate(0, data.steps_per_epoch(2)) for i in batch.index.tolist()}
        for data in (start, end)
    ]
    assert not seen[0] & seen[1] and not {3, 7} & (seen[0] | seen[1])
    assert start.identity()["selection"] != end.identity()["selection"]
    for data in (start, end):
        held_out = data.held_out(4, None)
        assert held_out is not None
        assert sum(count for _, count in held_out.batches()) == 6
        assert sum(count for _, count in data.evaluation("data.test_split", "test", data.views, 4).batches()) == 4


def unlucky(dataset: ShardedDataset) -> int:
    """A seed at which half of the patients lack the first one, whose label `c` is the only one of 0."""
    for seed in range(100):
        selection = select([dataset], "train", [1.0], 0.5, seed, None)
        if selection and 0 not in selection.samples:
            return seed
    raise AssertionError


def test_what_is_chosen_is_trained_on_and_is_part_of_the_identity(make_dataset: Any, radiograph: Any) -> None:
    """Image 0 is negative and 1 to 7 are positive: of six patients it is one, as labels keep their shares."""
    images = [radiograph(20, 20, seed=i) for i in range(8)]
    labels = [(i, i > 0) for i in range(8)]
    dataset = make_dataset(images, label_names=("number", "sick"), labels=labels)
    everything, some = inputs([dataset.root]), inputs([dataset.root], fraction=0.75, fraction_seed=3, negatives=1)
    content = some.identity()
    assert some.order.identity == f"{everything.order.identity},{content.pop('selection')}"
    assert content == everything.identity()
    seen = list(some.train(2).iterate(0, some.steps_per_epoch(2)))
    index = np.concatenate([batch.index for batch in seen]).tolist()
    assert len(index) == 10 and index.count(0) == 5 and len(set(index)) == 6
    assert [row[0] for batch in seen for row in batch.labels.tolist()] == index  # under the samples' own numbers
    assert planned(dataset, "data.fraction=0.75", "data.negatives=1") == 10 and planned(dataset) == 8
    for words, printed in (
        (
            {"fraction": 0.5, "negatives": 1},
            r"data.negatives=1: expected null, or another .* no negative .* in split 'train' at a fraction of 0\.5",
        ),
        (
            {"fraction": 0.1, "batch": 4},
            r"data.batch=4: .* 1 samples of 8, .* do not fill one global batch of 4 .data\.fraction=0\.1.",
        ),
    ):
        with pytest.raises(UserError, match=printed):
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
    *counted, fetches = planned_inputs(OmegaConf.to_object(cfg), views_of(cfg), 1)
    assert counted == [6, 0.0] and "the first epoch fetches" in fetches[0]
    assert not (tmp_path / "cache").exists()
