"""A run whose checkpoints lie in S3, as a user types it; the server is a process of its own."""

import shutil
from pathlib import Path

import pytest
import s3
import torch
from harness import EACH, finish, losses, pretrain, status, weights

from dira_scale.base.config.trust import allow
from dira_scale.export import main

pytestmark = pytest.mark.system


def export(run: Path) -> dict[str, bytes]:
    """The files that the command writes of the newest checkpoint."""
    assert main([f"run={run}", "stage=latest", "reach=s3://bucket"]) == 0
    return {path.name: path.read_bytes() for path in (run / "export").glob("*.safetensors")}


def test_a_run_goes_on_from_s3_when_its_machine_is_gone(unbroken: Path, shards: Path, tmp_path: Path) -> None:
    """Another folder goes on, and ends bit for bit as a run that kept all on its disk; export reads it."""
    gone, again = (tmp_path / name / "run" for name in ("gone", "again"))
    with s3.bucket() as bucket:
        stored = [*EACH, "checkpoint.keep=2", f"checkpoint.folder={bucket.url}/runs/mine"]
        finish(pretrain(gone, shards, *stored, "steps=4"))
        assert not (gone / "checkpoints").exists()
        best = {bucket.content(key).decode() for key in bucket.keys("runs/mine/BEST-")}
        kept = sorted({"000000003", "000000004"} | best)
        files = [
            f"runs/mine/{at}/{name}" for at in kept for name in ("index.json", "part-1-00000-of-00001.safetensors")
        ]
        assert bucket.keys("runs/mine/0") == files
        assert bucket.content("runs/mine/LATEST") == b"000000004"
        shutil.rmtree(gone)

        finish(pretrain(again, shards, *stored))
        assert status(again)["state"] == "done" and status(again)["step"] == 6
        allow([bucket.url])
        ours, theirs = weights(again), weights(unbroken)
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
        assert losses(again) == losses(unbroken)[4:]
        exported = export(again)
        assert len(exported) == 2 and exported == export(unbroken)
