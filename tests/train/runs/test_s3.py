"""An S3 store that is not as it should be. (Of every store: test_store.py; a whole run: tests/system/test_s3.py.)"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3
import torch
from omegaconf import OmegaConf
from recorded import derived

from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.checkpoint import Checkpointer
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.runs.reader import RunReader


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Bucket]:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # a connection that is refused is not tried again
    with s3.bucket() as there:
        yield there


def config(url: str) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(compose("pretrain", ["data.shards=any", f"checkpoint.folder={url}"]))
    return dict(content)


def test_a_mistyped_bucket_is_one_clear_line_and_not_made(bucket: s3.Bucket, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint.folder=s3://bukcet/run cannot be used: .*bucket does not exist"):
        RunFolder(tmp_path / "run", config("s3://bukcet/run"))
    assert [row["Name"] for row in bucket.client.list_buckets()["Buckets"]] == ["bucket"]


def test_a_server_that_is_gone_costs_checkpoints_and_nothing_else(bucket: s3.Bucket, tmp_path: Path) -> None:
    content = config(f"{bucket.url}/run")
    run = RunFolder(tmp_path / "run", content, derived("pretrain", content))
    saver, pieces = Checkpointer(run.checkpoints, 2, 0, 1), checkpoint.replicated({"x": torch.ones(3)})
    saver.save(1, pieces, {}, {})
    saver.raise_if_not_saved()
    bucket.process.kill()
    bucket.process.wait()
    saver.save(2, pieces, {}, {})
    saver.wait()
    (news,) = saver.take_warnings()
    assert news.startswith("the checkpoint of step 2 could not be written (") and "Could not connect" in news
    run.release()
    for ask in (
        lambda: RunFolder(tmp_path / "run", content),
        lambda: checkpoint.find_latest(run.checkpoints),
        lambda: RunReader(tmp_path / "run").load(None),
        lambda: RunReader(tmp_path / "run").load("latest"),
    ):
        with pytest.raises(UserError, match=r"^checkpoint.folder=s3://bucket/run cannot be used: .*Could not connect"):
            ask()
