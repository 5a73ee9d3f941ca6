"""A toy dataset of images with labels, and a run's folder, straight from arrays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from recorded import record

from dira_scale.base.config.compose import compose
from dira_scale.dataset.manifest import SCHEMA, DatasetInfo
from dira_scale.dataset.pixels import codecs
from dira_scale.train.models.encoder import build_encoder
from dira_scale.train.runs.checkpoint import Checkpointer, replicated

NAMES = ["bright", "coin", "never"]
COUNTS = {"train": 60, "val": 24, "test": 24}
ENCODER = "test_resnet"


def write(
    root: Path,
    names: list[str] = NAMES,
    patient: Callable[[int], int] = lambda i: i // 2,
    width: int = 40,
    bits: int = 16,
    slope: int = 0,
) -> Path:
    """Noise of 32 x ``width`` pixels, of 8 bits or 12 of 16, two images a patient: brighter where ``bright`` is 1, and
    by up to ``slope`` to the right."""
    root.mkdir()
    rng = np.random.default_rng(0)
    rows, shard = [], b""
    for number, split in enumerate([split for split, count in COUNTS.items() for _ in range(count)]):
        bright, coin = int(rng.integers(2)), float(rng.integers(2))
        image = rng.integers(0, 3000 - slope, (32, width)) + 600 * bright + np.linspace(0, slope, width).astype(int)
        payload = codecs.encode(image.astype(np.uint16) if bits == 16 else (image >> 4).astype(np.uint8), "png")
        labels = [float(bright), np.nan if number % 5 == 0 else coin, 0.0][: len(names)]
        rows.append(
            dict.fromkeys(SCHEMA.names)
            | {"key": str(number), "split": split, "patient": f"p{patient(number)}", "study": "s", "codec": "png"}
            | {"shard": "all.tar", "offset": len(shard), "size": len(payload), "channels": 1, "depth": 1, "bits": bits}
            | {"height": 32, "width": width, "low": 0.0, "high": 4095.0 if bits == 16 else 255.0, "labels": labels}
            | {"xxh3": xxhash.xxh3_64_hexdigest(payload)}
        )
        shard += payload
    (root / "all.tar").write_bytes(shard)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / "manifest.parquet")
    info = DatasetInfo(
        name="Toy", modality="CXR", dims=2, codec="png", label_names=names, counts=COUNTS, quarantined=0,
        shards={"all.tar": len(shard)}, recipe={}, recipe_hash="", licence="none", tool_version="0",
    )  # fmt: skip
    (root / "dataset.json").write_text(info.to_json())
    return root


def train(run: Path, seed: int, wrapped: bool = True, size: int = 32) -> Path:
    """A run folder as pretraining leaves it: one stage, its best checkpoint at step 3 and a newer one at step 5."""
    (run / "checkpoints").mkdir(parents=True)
    words = [f"seed={seed}", f"run={run}", f"model.encoder={ENCODER}", f"data.size={size}", "data.shards=any"]
    words += [f"method={'dira_moco' if wrapped else 'moco'}", "stages.dir.epochs=0", "stages.dira.epochs=0"]
    record(run, compose("pretrain", words))
    writer = Checkpointer(run / "checkpoints", keep=5, rank=0, world=1)
    prefix = "method.base.encoder." if wrapped else "method.encoder."
    for step in (3, 5):
        torch.manual_seed(100 * seed + step)
        tensors = {prefix + name: tensor for name, tensor in build_encoder(ENCODER, size=size).state_dict().items()}
        other = {name.replace("encoder", "key_encoder"): torch.zeros_like(tensor) for name, tensor in tensors.items()}
        writer.save(step, replicated(tensors | other), {"stage": 0, "best": {"di": 1.0}}, {"di": 3})
        writer.wait()
    return run
