"""A made-up finished run of three stages, whose figures are known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf
from PIL import Image
from recorded import record

from dira_scale.base.config.compose import compose
from dira_scale.dataset.manifest import SCHEMA, DatasetInfo, ShardedDataset

STAGES = {"di": 40, "dir": 80, "dira": 30}  # optimizer steps
TERMS = {"di": ("di",), "dir": ("di", "re"), "dira": ("di", "re", "ad", "discriminator")}


def row(step: int, stage: str, split: str, lease: int) -> dict[str, Any]:
    losses = {f"loss/{term}": 1.0 / (step + 1) + len(term) for term in TERMS[stage]}
    common = {"step": step, "epoch": step / 10, "stage": stage, "split": split, "lease": lease}
    common |= {"loss": sum(losses.values()), "top1": step / 200, "chance": 1 / 32} | losses
    if split == "val":
        return common
    times = {"time/step": 2.0, "time/data": 0.5, "time/validate": 0.25, "time/checkpoint": 0.25}
    times |= {"loader/read": 0.1, "loader/decode": 1.5, "loader/transform": 0.4, "loader/copy": 0.0}
    return common | times | {"lr": 1e-3, "images_per_second": 100.0 + step}


def metrics() -> list[dict[str, Any]]:
    """A train row every 5 steps, a held-out one every 10; another process from step 60 on."""
    rows, first = [], 0
    for stage, length in STAGES.items():
        for step in range(first + 5, first + length + 1, 5):
            if step % 10 == 0:
                rows.append(row(step, stage, "val", lease=1 if step <= 60 else 2))
            rows.append(row(step, stage, "train", lease=1 if step <= 60 else 2))
        first += length
    return rows


def dataset(root: Path, xxh3: int = 0) -> ShardedDataset:
    """A manifest of 353 images of a byte each."""
    root.mkdir(exist_ok=True)
    counts = {"train": 320, "val": 33}
    (root / "all.tar").write_bytes(bytes(320))
    image = dict.fromkeys(SCHEMA.names) | {"shard": "all.tar", "size": 1, "codec": "jpg", "low": 0.0, "high": 255.0}
    image |= {"labels": [1.0], "xxh3": f"{xxh3:016x}", "channels": 1, "bits": 8, "height": 1, "width": 1, "depth": 1}
    rows = [
        image | {"key": f"{i}", "patient": f"{i}", "split": split, "offset": i}
        for split, count in counts.items() for i in range(count)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / "manifest.parquet")
    info = DatasetInfo(
        name="phantom <cxr>", modality="CXR", dims=2, codec="jpg", label_names=["Nodule"], counts=counts, quarantined=2,
        shards={"all.tar": 320}, recipe={}, recipe_hash="", licence="Apache-2.0", tool_version="0",
    )  # fmt: skip
    (root / "dataset.json").write_text(info.to_json())
    return ShardedDataset.open(root)


def finished_run(tmp_path: Path) -> Path:
    """Its folder, in ``tmp_path``."""
    shards = dataset(tmp_path / "shards_of_ours")
    folder = tmp_path / "demo"
    (folder / "pictures").mkdir(parents=True)
    settings = ["data.batch=64", "enough_steps=1500"]
    config = compose("pretrain", ["experiment=phantom", f"data.shards={shards.root}", f"run={folder}", *settings])
    content = OmegaConf.to_container(config) | {"datasets": [{"hash": shards.hash, "weight": 1.0}], "order_version": 1}
    content |= {"views_version": 1}
    record(folder, content)
    (folder / "status.json").write_text(json.dumps({"state": "done", "step": 150, "reason": "", "exit_code": 0}))
    environment = {"dira_scale": "9.8.7", "commit": "c0ffee123456+", "host": "ward7", "command": f"{folder}/x.py a=b"}
    environment |= {"cores": 2, "processes": 1, "memory_gib": 7.5, "gpus": [], "torch": "2.13.0+cpu", "timm": None}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in metrics()))
    restoration = []
    for stage, ours in (("dir", 0.006), ("dira", 0.005)):
        for name, mse in {"mean": 0.05, "distorted": 0.04, "blur": 0.03, "telea": 0.02, "restored": ours}.items():
            restoration.append({"stage": stage, "restorer": name, "mse": mse, "ssim": 1 - 5 * mse, "n": 33})
        Image.fromarray(np.zeros((8, 24), np.uint8)).save(folder / "pictures" / f"{stage}.png")
    (folder / "pictures" / "restoration.json").write_text(json.dumps(restoration))
    for step in (40, 150):
        part = folder / "checkpoints" / f"{step:09d}"
        part.mkdir(parents=True)
        (part / "part-00000-of-00001.safetensors").write_bytes(bytes(2**20))
    (folder / "checkpoints" / "000000160.tmp").mkdir()
    (folder / "checkpoints" / "LATEST").write_text("000000150")
    (folder / "checkpoints" / "BEST-di").write_text("000000040")
    (folder / "checkpoints" / "BEST-dira").write_text("000000150\n")
    return folder
