"""What ``peers.py`` runs in the environment that it makes, where dira_scale is not: prints images/s as JSON.

Both packages hold the JPEG bytes; a subclass of their dataset decodes with PIL and takes the same crops, in the
DataLoader's processes. Their epochs have a cost of their own, so each length of a turn is a dataset of its own.
"""

import json
import sys
import tempfile
from collections.abc import Iterable
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

from benchmarks.loader.contenders.files import Crops, Files, Workers
from benchmarks.loader.turns import LEAD, Pace, core_ms, pace, rates

CHUNK = 2**24  # bytes of a file of either package
BATCHES = 20  # of a turn, beyond the LEAD


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


def sample(position: int, files: list[str]) -> dict[str, Any]:
    """What is stored at ``position``."""
    return {"image": Path(files[position % len(files)]).read_bytes(), "position": position}


class PeerFiles:
    """Turns over datasets that are written when their length is first asked for."""

    def __init__(self, name: str, files: list[Path], crops: Crops, workers: int, batch: int, folder: Path) -> None:
        self.name, self.crops, self.workers, self.batch, self.folder = name, crops, workers, batch, folder
        self.files = [str(file) for file in files]
        self.loader = cache(self._loader)

    def __call__(self, batches: int) -> Iterable[Any]:
        return iter(self.loader(batches))

    def _loader(self, batches: int) -> Any:
        folder, samples = str(self.folder / f"{self.name}{batches}"), range(batches * self.batch)
        settings: dict[str, Any] = {"batch_size": self.batch, "num_workers": self.workers, "persistent_workers": True}
        if self.name == "litdata":
            writer = Cache(folder, chunk_bytes=CHUNK)
            for position in samples:
                writer[position] = sample(position, self.files)
            writer.done()
            writer.merge()
            return litdata.StreamingDataLoader(Lit(folder, self.crops), **settings)
        columns = {"image": "bytes", "position": "int"}
        with streaming.MDSWriter(out=folder, columns=columns, size_limit=CHUNK) as shards:
            for position in samples:
                shards.write(sample(position, self.files))
        return DataLoader(Mosaic(folder, self.crops, self.batch), **settings)


def main() -> None:
    files, drawn = sorted(Path(sys.argv[1]).iterdir()), np.load(sys.argv[2])
    workers, batch, rounds = map(int, sys.argv[3:])
    crops = Crops(drawn["boxes"], drawn["flips"])
    with tempfile.TemporaryDirectory() as name:
        plain = Workers(Files(files, "L", crops), workers, batch)
        runs: dict[str, Any] = {"files, PIL": plain}
        runs |= {peer: PeerFiles(peer, files, crops, workers, batch, Path(name)) for peer in ("litdata", "streaming")}
        for run in runs.values():
            for batches in (LEAD, LEAD + BATCHES):
                assert _count(run(batches)) == batches
        result: dict[str, list[Pace]] = {peer: [] for peer in runs}
        for _ in range(rounds):
            for peer, run in runs.items():
                result[peer].append(pace(run, batch, BATCHES))
        plain.close()
    print(json.dumps({"speeds": rates(result), "core_ms": core_ms(result)}))


def _count(batches: Iterable[Any]) -> int:
    return sum(1 for _ in batches)


if __name__ == "__main__":
    main()
