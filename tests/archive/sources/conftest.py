"""A recipe run as the command does it, and its samples by the names that their source gave them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from archive import ingest

from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard.convert import convert


class Shards:
    """A dataset that was made of public images, whose hashes everybody can compute."""

    def __init__(self, out: Path):
        self.dataset = ShardedDataset.open(out)
        self.rows = {row["key"]: (number, row) for number, row in enumerate(self.dataset.table.to_pylist())}
        self._hash = Hasher(PUBLIC_KEY, self.dataset.info.recipe["archive"])
        self.label_names = self.dataset.info.label_names
        quarantine = pq.read_table(out / "quarantine.parquet").to_pylist()
        self._reasons = {row["source"]: row["reason"] for row in quarantine}

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, name: str) -> dict[str, Any]:
        return self.rows[self._hash("key", name)][1]

    def pixels(self, name: str) -> np.ndarray:
        number, row = self.rows[self._hash("key", name)]
        return decode(self.dataset.read(number), row["codec"])

    def mask(self, name: str) -> np.ndarray | None:
        number, row = self.rows[self._hash("key", name)]
        payload = self.dataset.read_mask(number)
        return payload and decode(payload, "png" if row["affine"] is None else "b2nd")

    def labels(self, name: str) -> dict[str, float]:
        return dict(zip(self.label_names, self.row(name)["labels"], strict=True))

    def attributes(self, name: str) -> dict[str, str]:
        return dict(self.row(name)["attributes"])

    def boxes(self, name: str) -> list[tuple[float, ...]]:
        """label, z, y, x, d, h, w."""
        return [tuple(box[side] for side in ("label", *"zyxdhw")) for box in self.row(name)["boxes"]]

    def splits(self) -> dict[str, int]:
        return self.dataset.info.counts

    def rejected(self, *names: str) -> dict[str, str]:
        """Reasons by name; every rejected one must be named."""
        hashes = {self._hash("key", name): name for name in names}
        return {hashes[source]: reason for source, reason in self._reasons.items()}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> type[Shards]:
    monkeypatch.delenv("DIRA_SCALE_HASH_KEY")  # of public images no matter; a recipe that takes it would fail
    return Shards


@pytest.fixture
def shards(tmp_path_factory: pytest.TempPathFactory, opened: type[Shards]) -> Callable[..., Shards]:
    """``shards(recipe, images=…, KEY=…)``: converted, then opened."""
    made = tmp_path_factory.mktemp("shards")  # not in ``tmp_path``, which may be the folder of images

    def run(name: str, **keys: Any) -> Shards:
        out = made / f"{name}{len(list(made.glob('*')))}"
        convert(ingest.recipe(name, **{k: str(v) if isinstance(v, Path) else v for k, v in keys.items()}), out, 1)
        return Shards(out)

    return run
