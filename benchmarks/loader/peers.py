"""litdata and MosaicML's streaming, in an environment of their own, where dira_scale is not.

Both packages hold the JPEG bytes; a subclass of their dataset decodes with PIL and takes the same crops, in the
DataLoader's processes. Their epochs have a cost of their own, so each length of a turn is a dataset of its own.
"""

from collections.abc import Callable, Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import litdata
import numpy as np
import streaming
import torch
from litdata.streaming.cache import Cache
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.loader.files import Crops
from benchmarks.turns import LEAD, Turn, turn_of

PACKAGES = ("litdata", "mosaicml-streaming", "torch", "numpy", "pillow")
CHUNK = 2**24  # bytes of a file of either package


def decoded(sample: dict[str, Any], crops: Crops) -> torch.Tensor:
    """Both views of a stored sample."""
    with Image.open(BytesIO(sample["image"])) as image:
        return crops(image, sample["position"])


class Lit(litdata.StreamingDataset):
    """litdata's dataset of JPEG bytes."""

    def __init__(self, folder: str, crops: Crops) -> None:
        super().__init__(folder, shuffle=True)
        self.crops = crops

    def __getitem__(self, index: Any) -> torch.Tensor:
        return decoded(super().__getitem__(index), self.crops)


class Mosaic(streaming.StreamingDataset):
    """streaming's dataset of JPEG bytes."""

    def __init__(self, folder: str, crops: Crops, batch: int) -> None:
        super().__init__(local=folder, shuffle=True, batch_size=batch)
        self.crops = crops

    def __getitem__(self, index: int) -> torch.Tensor:
        return decoded(super().__getitem__(index), self.crops)


def contenders(folder: Path) -> tuple[dict[str, Turn], dict[str, int]]:
    """Turns over datasets that are written when their length is first asked for; nothing is known of their sizes."""
    files, given = sorted((folder / "files").iterdir()), np.load(folder / "crops.npz")
    crops, (workers, batch) = Crops(given["boxes"], given["flips"]), given["numbers"].tolist()
    settings: dict[str, Any] = {"batch_size": batch, "num_workers": workers, "persistent_workers": True}

    def samples(batches: int) -> Iterable[dict[str, Any]]:
        for position in range(batches * batch):
            yield {"image": files[position % len(files)].read_bytes(), "position": position}

    def lit(batches: int) -> Any:
        writer = Cache(str(folder / f"litdata{batches}"), chunk_bytes=CHUNK)
        for position, sample in enumerate(samples(batches)):
            writer[position] = sample
        writer.done()
        writer.merge()
        return litdata.StreamingDataLoader(Lit(str(folder / f"litdata{batches}"), crops), **settings)

    def mosaic(batches: int) -> Any:
        out, columns = str(folder / f"streaming{batches}"), {"image": "bytes", "position": "int"}
        with streaming.MDSWriter(out=out, columns=columns, size_limit=CHUNK) as shards:
            for sample in samples(batches):
                shards.write(sample)
        return DataLoader(Mosaic(out, crops, batch), **settings)

    made: dict[str, Callable[[int], Any]] = {"litdata": cache(lit), "streaming": cache(mosaic)}
    for loader in made.values():
        assert sum(1 for _ in loader(LEAD)) == LEAD
    turns = {name: turn_of(lambda batches, of=loader: of(batches), batch) for name, loader in made.items()}  # type: ignore[misc]
    return turns, dict.fromkeys(turns, 0)
