"""What ``bench loader --tune`` chooses from given figures, and that ``pretrain`` takes what it writes."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from benchmarks.loader import tune
from dira_scale.base.config.compose import compose
from dira_scale.dataset.manifest import ShardedDataset

Make, Images = Callable[..., ShardedDataset], list[np.ndarray]


@pytest.fixture
def images(radiograph: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [radiograph(90, 80, seed=i) for i in range(6)]


def test_what_is_written_is_what_pretrain_takes(make_dataset: Make, images: Images, tmp_path: Path) -> None:
    shards, printed = make_dataset(images, "jpg").root, io.StringIO()
    tune.tune(shards, tmp_path / "tuned", 32, cores=1, rounds=1, seconds=0.01, console=Console(file=printed, width=100))
    written = yaml.safe_load((tmp_path / "tuned" / "data" / "tuned.yaml").read_text())
    config = compose("pretrain", ["--config-dir", str(tmp_path / "tuned"), "data=tuned", f"data.shards={shards}"])
    assert {name: config.data[name] for name in ("loader", "helper", "workers", "prefetch")} == {
        name: value for name, value in written.items() if name != "defaults"
    }
    assert config.data.workers == 1 and config.data.prefetch in tune.PREFETCH and config.data.block == "auto"
    assert "cpu, 1 thread(s)" in printed.getvalue() and "chosen" in printed.getvalue()
