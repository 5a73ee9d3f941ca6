"""Arguments against the annotations and defaults that they are for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import pytest
import torch

from dira_scale.base.arguments import (
    Above,
    ArgumentError,
    AtLeast,
    Length,
    Within,
    check_arguments,
    check_fields,
    checked,
    converted,
    inside,
)


@dataclass
class Blur:
    sigma: tuple[float, float] = (0.1, 2.0)


@dataclass
class Views:
    size: int = 224
    blur: Blur = field(default_factory=Blur)
    remark: str | None = None
    anything: Any = None
    share: Annotated[float, Above(0, 1)] = 0.5

    def __post_init__(self) -> None:
        check_fields(self)


class Figure(TypedDict):
    name: str
    values: list[float]


def plain(rate=0.1, whole=3, twice=False, untold=None) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        (torch.optim.SGD, {"lr": "abc"}, "lr: expected a number, got 'abc'"),
        (torch.optim.SGD, {"lr": None}, "lr: expected a number, got None"),
        (torch.optim.SGD, {"lr": True}, "lr: expected a number, got True"),
        (torch.optim.SGD, {"foreach": "maybe"}, "foreach: expected true or false, or null, got 'maybe'"),
        (torch.optim.Adam, {"betas": [0.5]}, "betas: expected a list of 2 numbers, got [0.5]"),
        (torch.optim.Adam, {"betas": ["a", 1]}, "betas[0]: expected a number, got 'a'"),
        (Views, {"size": 1.5}, "size: expected a whole number, got 1.5"),
        (Views, {"blur": "abc"}, "blur: expected a mapping, NAME: VALUE, got 'abc'"),
        (Views, {"blur": {"sigma": 1}}, "blur.sigma: expected a list of 2 numbers, got 1"),
        (Views, {"blur": {"sgima": 1}}, "blur.sgima: expected only sigma; did you mean 'sigma'?"),
        (Views, {"remark": 3}, "remark: expected text, or null, got 3"),
        (plain, {"rate": "abc"}, "rate: expected a number, got 'abc'"),
        (plain, {"twice": 1}, "twice: expected true or false, got 1"),
    ],
)
def test_a_value_of_another_kind_names_argument_and_expectation(target: Any, given: dict, message: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        check_arguments(target, given)
    assert str(raised.value) == message


def test_what_a_signature_takes_or_leaves_open_passes() -> None:
    check_arguments(torch.optim.SGD, {"lr": 1, "momentum": 0.9, "foreach": None, "unknown": "abc"})
    check_arguments(torch.optim.Adam, {"betas": [0.5, 1]})
    check_arguments(Views, {"size": 3, "remark": None, "anything": object(), "blur": {}})
    check_arguments(plain, {"whole": 2.5, "untold": "abc"})


@pytest.mark.parametrize(
    ("kind", "taken", "refused", "expected"),
    [
        (Annotated[int, AtLeast(1)], [1, 9], [0, -1], "a whole number of at least 1"),
        (Annotated[float, AtLeast(0)], [0, 0.5], [-0.1, math.nan, math.inf], "a number of at least 0"),
        (Annotated[float, Above(0)], [0.1], [0, math.nan, math.inf], "a number above 0"),
        (Annotated[float, Above(0, 1)], [0.1, 1], [0, 1.1], "a number above 0 and at most 1"),
        (Annotated[float, Within(0, 1)], [0, 1], [-0.1, 1.1, math.nan], "a number from 0 to 1"),
        (Annotated[int, AtLeast(1)] | None, [None, 1], [0], "a whole number of at least 1, or null"),
        (Annotated[list[int], AtLeast(1)], [[], [1, 2]], [[1, 0]], "a list, each a whole number of at least 1"),
        (Annotated[list[int], Length(2, 3)], [[1, 2], [1, 2, 3]], [[1], [1, 2, 3, 4]], "a list of 2 to 3 entries"),
        (Literal["mse", "l1"], ["l1"], ["l2", 1], "mse or l1"),
    ],
)
def test_bounds_and_choices(kind: Any, taken: list[Any], refused: list[Any], expected: str) -> None:
    assert [converted(kind, value, "x") for value in taken] == taken
    for value in refused:
        with pytest.raises(ArgumentError) as raised:
            converted(kind, value, "x")
        assert str(raised.value).startswith(f"x: expected {expected}")


def test_lists_and_mappings_become_what_they_stand_for() -> None:
    made = converted(Views, {"size": 3, "blur": {"sigma": [1, 2]}})
    assert made == Views(3, Blur((1.0, 2.0))) and isinstance(made.blur.sigma[0], float)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "a"}, "figure.values: expected a value; it is missing"),
        ({"name": "a", "values": [1, "b"]}, "figure.values[1]: expected a number, got 'b'"),
        ({"name": "a\x1b[2J", "values": []}, "figure.name: expected text without control characters"),
    ],
)
def test_a_strangers_json(value: Mapping[str, Any], message: str) -> None:
    assert converted(Figure, {"name": "a", "values": [1], "more": 2}, exact=True)["values"] == [1.0]
    with pytest.raises(ArgumentError) as raised:
        converted(Figure, value, "figure", exact=True)
    assert str(raised.value) == message


class Part:
    @checked
    def __init__(self, inner: object, dim: Annotated[int, AtLeast(1)] = 128, *, kind: Literal["a", "b"] = "a") -> None:
        self.dim = dim


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Part(None, 0), "dim: expected a whole number of at least 1, got 0"),
        (lambda: Part(None, kind="c"), "kind: expected a or b, got 'c'"),  # type: ignore[arg-type]
        (lambda: Views(share=0.0), "share: expected a number above 0 and at most 1, got 0.0"),
    ],
)
def test_constructors_hold_their_own_arguments(make: Callable[[], object], message: str) -> None:
    assert Part(None, 3).dim == 3
    with pytest.raises(ArgumentError) as raised:
        make()
    assert str(raised.value) == message
    with pytest.raises(ArgumentError) as outer, inside("views"):
        make()
    assert str(outer.value) == f"views.{message}"
