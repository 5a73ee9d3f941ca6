"""Saves a batch with a loss or gradient that is not finite, for inspection."""

import math
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from dira_scale.base.storage.atomic import write_json
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.batch import Batch


def save_batch(folder: Path, batch: Batch, datasets: list[ShardedDataset], split: str, row: dict[str, Any]) -> None:
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
        tensors |= {f"distortions.{i}.{name}": values for name, values in distortion.tensors().items()}
    tensors |= {f"flips.{i}": flip for i, flip in enumerate(batch.flips)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "batch.safetensors")
    # JSON has no NaN and infinity: written as strings.
    losses = {name: value if math.isfinite(value) else str(value) for name, value in row["losses"].items()}
    # Dataset and key of each sample's image; with ``views``, the keys by view, where these are not all that image's.
    parts = [dataset.rows(split) for dataset in datasets]
    ends, images = np.cumsum([len(part) for part in parts]).tolist(), []
    for sample in (batch.index if batch.images is None else batch.images).view(len(batch.index), -1).tolist():
        origins: list[dict[str, Any]] = []
        for image in sample:  # counted over all datasets
            number = bisect_right(ends, image)
            position = int(parts[number][image - ends[number]])  # counted from the dataset's end
            origins.append({"dataset": datasets[number].info.name, "key": datasets[number].cell("key", position)})
        keys = [origin["key"] for origin in origins]
        images.append(origins[0] if len({*keys}) == 1 else origins[0] | {"views": keys})
    write_json(folder / "batch.json", row | {"losses": losses, "images": images})
