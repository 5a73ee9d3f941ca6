"""A split's samples at the size that they are stored in: what cannot be decoded is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dataset.conftest import make_dataset
from torch import Tensor

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import SCHEMA, ShardedDataset
from dira_scale.judge.evaluation.held_out_split import HeldOutSplit
from dira_scale.judge.tasks.predictions import SplitCases
from dira_scale.train.held_out import DistributedEvalOrder, HeldOutBatches

__all__ = ["make_dataset"]


def split_of(dataset: ShardedDataset, seen: list[int]) -> HeldOutSplit:
    def predicted(images: Tensor) -> Tensor:
        return torch.sigmoid(images)

    about, order = SplitCases([dataset], "train"), DistributedEvalOrder(3, 2, 2, rank=0, ranks=1)
    held_out = HeldOutBatches(None, order)  # type: ignore[arg-type]
    size, device = (8, 8), torch.device("cpu")
    return HeldOutSplit(
        [dataset], about, predicted, device, held_out, size, {}, "whole", workers=1, advance=seen.append
    )


def test_an_image_that_is_not_of_its_codec_is_named(make_dataset: Callable[..., ShardedDataset]) -> None:
    mask = np.ones((8, 8), np.uint8)
    dataset, seen = make_dataset([mask, 2 * mask, mask], masks=[mask, None, mask]), list[int]()
    whole = [*split_of(dataset, seen).whole()]
    assert [int(each.index) for each in whole] == [0, 2] and seen == [1, 1, 1]

    manifest = Path(dataset.root) / "manifest.parquet"
    rows = pq.read_table(manifest).to_pylist()
    rows[0]["codec"] = "jpg"  # whose checksum is right
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), manifest)
    with pytest.raises(UserError, match=r"sample toy0 .* cannot be read: .*; copy the shard again"):
        [*split_of(ShardedDataset.open(dataset.root), seen).whole()]
