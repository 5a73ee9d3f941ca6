"""Values written as words are composed to the same values: round trips through Hydra."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dira_scale.base.config.compose import configured
from dira_scale.base.config.keys import written
from dira_scale.base.errors import UserError
from dira_scale.sweep.command_line import path_keys_in

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])).filter(lambda text: "${" not in text)
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | TEXT
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda key: key not in ("null", "true", "false"))
KEYS |= st.sampled_from(["s3://store/a b", "/data/a, b (2)", "../[x]=\\y"])
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@settings(max_examples=3)  # of many values each: a composition takes long
@given(st.lists(VALUES, min_size=20, max_size=60))
@example(["1", "null", "a, b", "it's \\'quoted\\'\\", "[not, a list]", "a=b {c}", [["a b", {"x": "1e3"}], "true"]])
def test_values_survive_the_command_line(values: list[Any]) -> None:
    given = {f"+recipe.extra{n}": value for n, value in enumerate(values)}
    given |= {"recipe": "folder", "recipe.images": Path("i j"), "out": "o"}
    composed: Any = OmegaConf.to_container(configured("shard", given).recipe)
    assert composed["images"] == "i j"
    assert [composed[f"extra{n}"] for n in range(len(values))] == values
    assert [type(composed[f"extra{n}"]) for n in range(len(values))] == [type(value) for value in values]


def test_what_needs_no_quotes_has_none() -> None:
    for path in ("out/runs/a-b_c.d", "/data/x", "../x", "s3://bucket/x"):
        assert written(path) == path
    assert written([1, 0.5, "jpg", None, True]) == "[1,0.5,jpg,null,true]"


def test_a_choice_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no recipe named 'foldr'; did you mean 'folder'"):
        path_keys_in("shard", {"recipe": "foldr", "out": tmp_path}, [])
