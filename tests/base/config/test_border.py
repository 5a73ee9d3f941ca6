"""The keys that a border adds to what parts say of their own arguments."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dira_scale
from dira_scale.archive.reading import ACCEPTED
from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.config.border import RESHARD, advised, at, constructed
from dira_scale.base.errors import DatasetError, UserError
from dira_scale.train.data.requests import COLUMNS

CODE = "\n".join(path.read_text() for path in Path(dira_scale.__path__[0]).rglob("*.py"))


class Blur:
    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        if sigma[0] > sigma[1]:
            raise ArgumentError("sigma", sigma, "an ascending pair")


class Views:
    def __init__(self, size: int, blur: Blur | None = None) -> None:
        if size % 2:
            raise ArgumentError("size", size, f"{size - 1}")


VIEWS, BLUR = f"{__name__}.Views", f"{__name__}.Blur"


def failing(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ArgumentError("queue", 5, "6"), "method.queue=5: expected 6"),
        (ArgumentError("views.crops[1].size", [4, 4], "8"), "views.crops[1].size=[4, 4]: expected 8"),
        (ArgumentError("views.size", 5, "6"), "data.size=5: expected 6"),
        (ArgumentError("encoder", UNSHOWN, "a transformer"), "model.encoder: expected a transformer"),
        (ValueError("no such thing"), "method: no such thing"),
        (UserError("a user's own"), "a user's own"),
    ],
)
def test_a_parts_error_names_the_key(error: Exception, message: str) -> None:
    elsewhere = {"views": "views", "views.size": "data.size", "encoder": "model.encoder"}
    with pytest.raises(UserError) as raised, at("method", elsewhere):
        failing(error)()
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"size": 3}, "data.size=3: expected 2"),
        ({"size": "abc"}, "data.size=abc: expected a whole number"),
        ({"size": 2, "blur": {"_target_": BLUR, "sigma": 1}}, "views.blur.sigma=1: expected a list of 2 numbers"),
        (
            {"size": 2, "blur": {"_target_": BLUR, "sigma": [2, 1]}},
            "views.blur.sigma=[2, 1]: expected an ascending pair",
        ),
        ({"size": 2, "blurr": None}, "views.blurr: Views has no such setting, only size, blur; did you mean 'blur'?"),
        ({}, "views.size is missing: Views needs it"),
    ],
)
def test_a_constructed_part_names_keys_however_deep(node: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        constructed("views", {"_target_": VIEWS, **node}, {"size": "data.size"})
    assert str(raised.value) == message


def test_every_lack_of_a_dataset_has_its_advice_and_the_reverse() -> None:
    assert {*re.findall(r'lacks="([^"]+)"', CODE)} | COLUMNS.keys() == RESHARD.keys()
    lacking = DatasetError("toy has no labels", lacks="labels")
    assert advised(lacking).startswith("toy has no labels: shard it again with recipe.labels")
    assert advised(DatasetError("toy is damaged")) == "toy is damaged" and advised(UserError("no")) == "no"


def test_every_rejection_that_a_setting_decides_names_its_key_and_the_reverse() -> None:
    assert {*re.findall(r'decided_by="([^"]+)"', CODE)} == ACCEPTED.keys()
