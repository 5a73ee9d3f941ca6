"""Values of constructed nodes against the signatures that they are for."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from dira_scale.config.arguments import check_node, check_values

from dira_scale.errors import UserError


@dataclass
class Blur:
    sigma: tuple[float, float] = (0.1, 2.0)


@dataclass
class Views:
    size: int = 224
    blur: Blur = field(default_factory=Blur)
    remark: str | None = None
    anything: Any = None


def plain(rate=0.1, whole=3, twice=False, untold=None) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        (torch.optim.SGD, {"lr": "abc"}, "lr=abc: expected a number"),
        (torch.optim.SGD, {"lr": None}, "lr=null: expected a number"),
        (torch.optim.SGD, {"lr": True}, "lr=true: expected a number"),
        (torch.optim.SGD, {"foreach": "maybe"}, "foreach=maybe: expected true or false, or null"),
        (torch.optim.Adam, {"betas": [0.5]}, r"betas=\[0.5\]: expected a list of 2 numbers"),
        (torch.optim.Adam, {"betas": ["a", 1]}, r"betas=\[a, 1\]: expected a list of 2 numbers"),
        (Views, {"size": 1.5}, "size=1.5: expected a whole number"),
        (Views, {"blur": "abc"}, "blur=abc: expected a mapping, NAME: VALUE"),
        (Views, {"remark": 3}, "remark=3: expected text, or null"),
        (plain, {"rate": "abc"}, "rate=abc: expected a number"),
        (plain, {"twice": 1}, "twice=1: expected true or false"),
    ],
)
def test_a_value_of_another_kind_names_key_and_expectation(target: Any, given: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"^node\.{message}$"):
        check_values(target, given, "node")


def test_what_a_signature_takes_or_leaves_open_passes() -> None:
    check_values(torch.optim.SGD, {"lr": 1, "momentum": 0.9, "foreach": None, "unknown": "abc"}, "node")
    check_values(torch.optim.Adam, {"betas": [0.5, 1]}, "node")
    check_values(Views, {"size": 3, "remark": None, "anything": object(), "blur": {}}, "node")
    check_values(plain, {"whole": 2.5, "untold": "abc"}, "node")


def test_inner_nodes_are_named_in_full() -> None:
    node = {"_target_": f"{__name__}.Views", "blur": {"_target_": f"{__name__}.Blur", "sigma": 1}}
    with pytest.raises(UserError, match=r"^views\.blur\.sigma=1: expected a list of 2 numbers$"):
        check_node(node, "views")
