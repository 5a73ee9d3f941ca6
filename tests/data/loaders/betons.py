"""Datasets of arrays, with the ``.beton`` that ``shard convert`` would write beside them."""

from dataclasses import replace

import numpy as np

from dira_scale.data.beton import JPEG, RAW, ImageField, IntField, Writer
from dira_scale.data.manifest import INFO_FILE, ShardedDataset
from dira_scale.pixels.codecs import decode


def with_beton(dataset: ShardedDataset, split: str = "train") -> ShardedDataset:
    """``dataset`` with ``{split}.beton``: its images and rows, without the fields that no loader reads."""
    rows, file = dataset.rows(split), dataset.root / f"{split}.beton"
    with Writer(file, {"image": ImageField(), "index": IntField()}, len(rows), 2**20) as writer:
        for row in rows.tolist():
            payload, codec = dataset.read(row), dataset.cell("codec", row)
            pixels = decode(payload, codec)
            if codec == "jpg":
                image = (JPEG, *pixels.shape[:2], payload)
            else:
                colour = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)
                image = (RAW, *pixels.shape[:2], colour.tobytes())
            writer.add({"image": image, "index": row})
    info = replace(dataset.info, betons=dataset.info.betons | {file.name: file.stat().st_size})
    (dataset.root / INFO_FILE).write_text(info.to_json())
    return ShardedDataset.open(dataset.root)
