"""Typed paths, sizes and names are checked before torch and timm are imported, which takes many seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

WRONG = {
    "predict run=here images=nope out=p": "images=nope: no such folder",
    "predict run=nope images=here out=p": "run=nope is not a folder",
    "evaluate run=here data.shards=nope out=e": "no sharded dataset at nope",
    "localize run=nope data.shards=shards out=l": "run=nope is not a folder",
    "probe run=nope data.shards=shards": "run=nope is not a run folder",
    "probe run=null init=nope.pth data.shards=shards": "init=nope.pth: no such file",
    "embed run=null init=nope data.shards=shards out=x": "init=nope: no such file",
    "export run=nope": "run=nope is not a run folder",
    "report run=nope": "run=nope is not a run folder",
    "report run=shards": "run=shards is a sharded dataset, not a run",
    "pretrain experiment=small data.shards=nope": "no sharded dataset at nope",
    "pretrain experiment=small data.shards=shards data.size=63": "data.size=63: expected 32 or 64: the maps of "
    "resnet18 take a multiple of 32",
    "pretrain experiment=small data.shards=shards model.encoder=resnet19": "model.encoder=resnet19: expected a back",
    "pretrain experiment=small data.shards=shards model.weights=nope": "model.weights=nope: no such file",
    "pretrain experiment=smal data.shards=shards": "no experiment named 'smal'; did you mean 'small'?",
    "finetune data.shards=shards init=nope": "init=nope: no such file",
    "finetune data.shards=shards init=random model.encoder=resnot50": "a backbone of timm; did you mean 'resnet50'",
    "finetune data.shards=shards": "init must be given: a network on resnet50 would learn from random weights",
    "finetune task=survival": "data.shards, init, task.event, task.time must be given",
    "shard recipe=folder recipe.images=nope out=o": "recipe.images=nope: no such folder",
    "shard recipe=folder recipe.images=here recipe.labels=nope out=o": "recipe.labels=nope: no such file",
}
CALLS = """
import contextlib, importlib, io, json, sys
from shared_bases import composed
from dira_scale.base.config import compose
compose._hydra, said = composed, {}
for words in json.load(sys.stdin):
    command, *rest = words.split()
    with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
        code = importlib.import_module(f"dira_scale.{command}").main(rest)
    said[words] = [code, error.getvalue(), sorted({"torch", "timm"} & sys.modules.keys())]
print(json.dumps(said))
"""


def test_wrong_words_are_answered_before_torch_is_imported(tmp_path: Path, make_dataset) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "here").mkdir()
    (tmp_path / "shards").symlink_to(make_dataset([np.zeros((64, 64), np.uint8)] * 40).root)
    done = subprocess.run(
        [sys.executable, "-c", CALLS], input=json.dumps([*WRONG]), cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words, (code, line, slow) in json.loads(done.stdout).items():
        assert code == 2 and WRONG[words] in line and not slow, (words, line, slow)
