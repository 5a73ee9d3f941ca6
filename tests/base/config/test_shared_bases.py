"""The tests' shared compositions are what Hydra composes from all words at once."""

import pytest
from shared_bases import BASES, composed, hydra

from dira_scale.base.config.compose import _plain as plain

SHARDS = "data.shards=somewhere"
ALIKE = (
    ["optim.optimizer.lr=0.5", "data.batch=64"],
    ["data.size=64", "optim.optimizer.lr=0.5", "optim.optimizer.lr=0.25"],  # the last one counts
    ["method={base: {queue: 1024}}", "method.base.queue=2048"],
    ["~optim.optimizer.weight_decay", "+optim.optimizer.nesterov=true"],
    ["data.shards=/a b", "checkpoint.folder=${run}/x", "seed=3"],
    ["experiment=small", "model.encoder=a", "data.split=${model.encoder}"],
    ["precision=fp32", "run=x", "parallel=fsdp2", "steps=7"],
    ["optim.optimizer.lr=0.3", "optim={optimizer:{lr:0.1}}"],  # a mapping and a value of the same key
)


@pytest.mark.parametrize("words", ALIKE)
def test_a_shared_base_gives_what_hydra_gives(words: list[str]) -> None:
    words = [SHARDS, *words]
    composed("pretrain", [*words, "log_every=3", "seed=4"], [])  # its values stay out of the base
    before = len(BASES)
    assert plain(composed("pretrain", words, [])) == plain(hydra("pretrain", words, [])) and len(BASES) == before
