"""Warnings begin where something goes wrong, are said once, and name what to change."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.pretrain.diagnosis import PATIENCE, ROWS, Diagnosis
from dira_scale.train.engine.task import StagePosition

LATE = StagePosition("dira", 10_000, 6_000)
FINE = {
    "health/std": 0.8, "health/rank": 20.0, "top1": 0.5, "chance": 1 / 32, "health/discriminator": 0.8, "loss/ad": 0.4,
    "health/gradient/di": 0.02, "health/gradient/re": 0.01, "health/gradient/ad": 1e-6, "queue_fresh": 1.0,
    "teacher_entropy": 0.6, "prototypes": 0.4,
}  # fmt: skip
WRONG = {
    "collapse": ({"health/std": 0.01, "health/rank": 2.2}, ["collapse", "0.010", "2.2", "optim.optimizer.lr"]),
    "uniform": ({"teacher_entropy": 0.9995}, ["collapse", "entropy 1.000", "set method.base.batch_norm=true"]),
    "one prototype": ({"prototypes": 0.0}, ["collapse", "0.0% of the others", "lower optim.optimizer.lr"]),
    "two prototypes": ({"prototypes": 1 / 63}, ["collapse", "1.6% of the others"]),
    "line": ({"health/rank": 1.2}, ["collapse", "0.800", "1.2"]),
    "chance": ({"top1": 0.035}, ["top-1 0.035", "chance (0.031)", "60%", "method.base.queue"]),
    "adversary": ({"health/discriminator": 0.999, "loss/ad": 0.97}, ["discriminator wins", "99.9%", "weights.ad"]),
    "dwarfed": ({"health/gradient/di": 83.0}, ["L_di dwarfs L_re", "8300 times", "weights.di", "method.base.scale"]),
    "dwarfs": ({"health/gradient/re": 120.0}, ["L_re dwarfs L_di", "6000 times", "lower method.weights.re"]),
    "no pull": ({"health/gradient/re": 0.0}, ["L_di dwarfs L_re"]),
    "queue": ({"queue_fresh": 0.12}, ["12%", "method.base.queue", "method.base.momentum"]),
}


def diagnosis(adversary: str = "lsgan", **method: Any) -> Diagnosis:
    method = method or {"base": {"scale": 1.0}, "weights": {"di": 1.0, "re": 10.0, "ad": 0.001}}
    config = SimpleNamespace(adversary=SimpleNamespace(loss=adversary), method=method, stages={})
    return Diagnosis(config)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", WRONG)
def test_what_goes_wrong_is_reported_once_and_again_only_after_it_was_well(kind: str) -> None:
    wrong, words = WRONG[kind]
    watch, looks = diagnosis(), ROWS if kind == "chance" else PATIENCE
    for _ in range(looks - 1):
        assert watch.warnings(FINE | wrong, LATE) == []  # one look may be an outlier, and a row of a single batch
    [printed] = watch.warnings(FINE | wrong, LATE)
    assert all(word in printed for word in words) and len(printed) < 260
    assert all(watch.warnings(FINE | wrong, LATE) == [] for _ in range(ROWS))
    assert watch.warnings({"loss": 1.0}, LATE) == []  # a row between two looks says nothing of either
    assert watch.warnings(FINE | wrong, LATE) == []
    assert watch.warnings(FINE, LATE) == []
    assert all(watch.warnings(FINE | wrong, LATE) == [] for _ in range(looks - 1))
    assert watch.warnings(FINE | wrong, LATE) == [printed]


def test_words_at_chance_are_of_an_accuracy() -> None:
    row = {key: value for key, value in FINE.items() if key not in ("top1", "queue_fresh")}
    watch = diagnosis()
    printed = [text for _ in range(ROWS) for text in watch.warnings(row | {"accuracy": 0.03, "chance": 1 / 44}, LATE)]
    assert [text[: text.index(":")] for text in printed] == [
        "accuracy 0.030 is still at chance (0.023) after 60% of stage dira"
    ]


def test_rows_of_another_kind_between_two_looks_do_not_hide_an_onset() -> None:
    watch, wrong = diagnosis(), FINE | WRONG["collapse"][0]
    printed = [watch.warnings(row, LATE) for row in (wrong, {"top1": 0.5, "chance": 0.03}, wrong)]
    assert [len(texts) for texts in printed] == [0, 0, 1]


@pytest.mark.parametrize(
    ("kind", "early"),
    [
        ("collapse", StagePosition("di", 1000, 99)),
        ("chance", StagePosition("di", 10_000, 2_499)),
        ("chance", StagePosition("di", 500, 499)),  # late in the stage, and yet no time to learn
        ("uniform", StagePosition("di", 10_000, 2_499)),
        ("one prototype", StagePosition("di", 500, 499)),
        ("queue", StagePosition("di", 1002, 500)),  # it may still be filling
        ("queue", StagePosition("di", 3, 3)),  # a trial
    ],
)
def test_the_beginning_is_not_judged(kind: str, early: StagePosition) -> None:
    watch = diagnosis()
    assert all(watch.warnings(FINE | WRONG[kind][0], early) == [] for _ in range(2 * ROWS))


@pytest.mark.parametrize(
    "fine",
    [
        {"health/std": 0.3, "health/rank": 4.0},
        {"top1": 0.3, "chance": 0.5},  # no batch to be lost in
        {"health/discriminator": 1.0},  # but its generator still gains on it
        {"health/gradient/re": 2e-5},  # a thousand times smaller, as under Barlow Twins
        {"queue_fresh": 0.24},  # the released code's last stage
        {"health/gradient/ad": 1e-12},  # a weight of 0.001 is meant to be small
    ],
)
def test_what_is_not_wrong_is_not_said(fine: dict[str, float]) -> None:
    watch = diagnosis()
    assert all(watch.warnings(FINE | fine, LATE) == [] for _ in range(2 * ROWS))


def test_a_wasserstein_critic_may_win() -> None:
    """Its loss has no level, and it is the better the further it tells both apart."""
    wins = FINE | {"health/discriminator": 1.0, "loss/ad": 50.0}
    watch = diagnosis("wgan_gp")
    assert [watch.warnings(wins, LATE) for _ in range(PATIENCE)] == [[]] * PATIENCE


def test_the_logarithmic_adversary_has_a_level_of_its_own() -> None:
    watch = diagnosis("minimax")
    lost, even = FINE | {"health/discriminator": 1.0, "loss/ad": -0.01}, FINE | {"loss/ad": -0.69}
    assert [len(watch.warnings(row, LATE)) for row in (even, lost, lost)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"top1": 0.035}, ["a shorter method.queue"]),
        ({"queue_fresh": 0.12}, ["method.queue", "method.momentum"]),
        ({"health/gradient/di": 83.0}, ["lower method.weights.di; or raise method.weights.re"]),
        ({"health/gradient/re": 120.0}, ["lower method.weights.re; or raise method.weights.di"]),
    ],
)
@pytest.mark.parametrize("preset", [[], ["preset=released"]])
def test_what_is_said_of_pcrl_names_keys_that_it_has(preset: list[str], wrong: dict[str, float], words: Any) -> None:
    config: Any = OmegaConf.to_object(compose("pretrain", ["data.shards=none", "experiment=pcrl", *preset]))
    watch, row = Diagnosis(config), FINE | wrong
    [printed] = [text for _ in range(ROWS) for text in watch.warnings(row, StagePosition("pcrl", 10_000, 6_000))]
    assert all(word in printed for word in words)
    for key in re.findall(r"method\.([\w.]+\w)", printed):
        assert OmegaConf.select(OmegaConf.create(config.method), key) is not None, key


def test_a_starving_trainer_is_told_what_its_loader_does_most() -> None:
    """After half a minute of waiting, however many rows that takes; and only once until it is over."""
    loading = {"loader/read": 3.0, "loader/decode": 1.0, "loader/transform": 2.0, "loader/copy": 0.0}
    starving, fed = FINE | loading | {"time/step": 6.0, "time/data": 4.0}, {"time/step": 9.5, "time/data": 0.5}
    watch = diagnosis()
    assert [watch.warnings(starving, LATE) for _ in range(7)] == [[]] * 7  # 28 s
    [printed] = watch.warnings(starving, LATE)
    assert printed.startswith(
        "training waits for its loader 40% of the time; the loader's threads mostly read (read 3.0 s"
    )
    assert "data.cache=FOLDER" in printed
    assert watch.warnings(starving, LATE) == []
    assert watch.warnings(fed, LATE) == []
    assert [watch.warnings(starving | {"loader/decode": 9.0}, LATE) for _ in range(7)] == [[]] * 7
    assert "codec=jpg" in watch.warnings(starving | {"loader/decode": 9.0}, LATE)[0]
