"""Compositions that share a base are what Hydra composes from all words at once."""

import pytest

from dira_scale.config import shared
from dira_scale.config.compose import compose
from dira_scale.errors import UserError

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


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of each composition by Hydra, without its own."""
    from dira_scale.config import compose as module

    calls: list[list[str]] = []
    hydra = module.hydra_compose

    def counting(config_name: str, overrides: list[str], return_hydra_config: bool) -> object:
        calls.append(overrides[1:])
        return hydra(config_name=config_name, overrides=overrides, return_hydra_config=return_hydra_config)

    monkeypatch.setattr(module, "hydra_compose", counting)
    return calls


@pytest.mark.parametrize("words", ALIKE)
def test_a_shared_base_gives_what_hydra_gives(words: list[str]) -> None:
    words = [SHARDS, *words]
    alone = compose("pretrain", words)
    with shared.shared_bases():
        compose("pretrain", [*words, "log_every=3", "seed=4"])  # its values stay out of the base
        assert compose("pretrain", words) == alone


def test_hydra_composes_once_for_all_values(composed: list[list[str]]) -> None:
    with shared.shared_bases():
        result = [compose("pretrain", [SHARDS, f"optim.optimizer.lr={rate}", f"run=r{rate}"]) for rate in (1, 2, 3)]
    assert [(item.optim.optimizer.lr, item.run) for item in result] == [(1, "r1"), (2, "r2"), (3, "r3")]
    assert composed == [[]]
    compose("pretrain", [SHARDS])
    assert len(composed) == 2, "afterwards, files may change: each is composed on its own"


@pytest.mark.parametrize("word", ["optim.optimizer.momentun=1", "data.batch=a"])
def test_mistakes_read_as_they_do_alone(word: str) -> None:
    def message() -> str:
        with pytest.raises(UserError) as error:
            compose("pretrain", [SHARDS, word])
        return str(error.value)

    alone = message()
    with shared.shared_bases():
        assert message() == alone
