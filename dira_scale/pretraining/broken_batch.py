"""Saves a batch with a loss or gradient that is not finite, for inspection."""

import math
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from dira_scale.data.batch import Batch
from dira_scale.places.atomic import write_json

if TYPE_CHECKING:  # a step needs no shards, hence no pyarrow
    from dira_scale.data.manifest import ShardedDataset


def save_batch(folder: Path, batch: Batch, datasets: "list[ShardedDataset]", split: str, row: dict[str, Any]) -> None:
    """Write ``batch.safetensors`` (views as loaded, distortion parameters, index) and ``batch.json``.

    Args:
        batch: this rank's part, as the loader returned it.
        datasets, split: what ``batch.index`` refers to.
        row: further entries of the JSON; its ``losses`` may be non-finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"index": batch.index, "low": batch.low, "high": batch.high}
    tensors |= {} if batch.labels is None else {"labels": batch.labels}
    for i, (view, distortion) in enumerate(zip(batch.views, batch.distortions, strict=True)):
        tensors[f"views.{i}"] = view
        tensors |= {f"distortions.{i}.{f.name}": getattr(distortion, f.name) for f in fields(distortion)}
    tensors |= {f"flips.{i}": flip for i, flip in enumerate(batch.flips)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "batch.safetensors")
    # JSON has no NaN and infinity: written as strings.
    losses = {name: value if math.isfinite(value) else str(value) for name, value in row["losses"].items()}
    images = list(_images(batch.index.tolist(), datasets, split))
    write_json(folder / "batch.json", row | {"losses": losses, "images": images})


def _images(index: list[int], datasets: "list[ShardedDataset]", split: str) -> Iterable[dict[str, str]]:
    """Dataset and key of each sample; ``index`` counts over all datasets."""
    everything = [(dataset, row) for dataset in datasets for row in dataset.rows(split)]
    for i in index:
        dataset, row = everything[i]
        yield {"dataset": dataset.info.name, "key": str(dataset.column("key")[row])}
