"""Neighbours at a validation: all processes' images, however unequally dealt, are asked once.

Run by pytest this file starts itself once per process: ``test_neighbours.py RANK FOLDER``.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from harness import together

from dira_scale.pretrain.task import knn_auc

WAIT = 120  # seconds


def images() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = (torch.rand(45, 3) < 0.4).float()
    labels[::7, 1] = torch.nan
    labels[:, 2] = 1.0  # one class only: does not count
    return torch.cat([labels[:, :1] * 0.8, torch.randn(45, 5)], dim=1), labels


def test_two_processes_ask_as_one_does(tmp_path: Path) -> None:
    expected = knn_auc(*images())
    assert 0.4 < expected < 1.0
    together([[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)])
    assert [float((tmp_path / f"{rank}").read_text()) for rank in range(2)] == pytest.approx([expected] * 2, abs=1e-9)


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    limit = timedelta(seconds=WAIT)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2, timeout=limit)
    features, labels = (x[:31] if rank == 0 else x[31:] for x in images())
    (folder / f"{rank}").write_text(repr(knn_auc(features, labels)))
    dist.destroy_process_group()
    os._exit(0)  # a Python that ends while a thread of gloo's still holds a tensor may abort (pytorch#179291)
