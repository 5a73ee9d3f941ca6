"""A path is a path: what is typed for a key that holds a place is taken literally, before Hydra's grammar."""

from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dira_scale.config.compose import compose
from dira_scale.config.overrides import expand_home, quote, restore
from dira_scale.config.schema import Place, Places
from dira_scale.errors import UserError

PATHS = [
    "/data/Bilder (2024)/äü",
    "a,b",
    "a=b",
    "a&b",
    "$x",
    "{}",
    "[x]",
    "#x",
    "!x",
    "it's",
    '"quoted"',
    "'quoted'",
    " two  spaces ",
    "back\\slash\\",
    "${oc.env:HOME}",
    "\\${x}",
    "007",
    "2024_01",
    "1e3",
    "true",
    "s3://bucket/a b",
    "a:b",
    "*?",
    "",
]
PLACES = {"run": Places.ONE, "shards": Places.SEVERAL}


class Source:
    """Of a recipe of one's own."""

    def __init__(self, pictures: Place, note: str = "", table: Place | None = None) -> None: ...


@pytest.mark.parametrize("first", range(0, len(PATHS), 2))
def test_every_verb_takes_a_path_as_typed(first: int) -> None:
    """Two in a composition, which takes long; `export` has few keys and thus the shortest."""
    path, other = PATHS[first : first + 2]
    config = compose("export", [f"run={path}", f"out={other}"])
    assert (config.run, config.out) == (path, other)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    assert (plain["run"], plain["out"]) == (path, other)
    made: Any = OmegaConf.to_object(config)
    assert (made.run, made.out) == (path, other)


@given(st.text(st.characters(exclude_categories=["C"])))
@example("\\\\${a}${")
def test_any_printable_path(path: str) -> None:
    if path in ("null", "???") or path.startswith("~"):
        return
    word, other = quote([f"run={path}", "seed=1"], PLACES)
    value = OverridesParser.create().parse_override(word).value()
    config = OmegaConf.create({"run": value, "copy": "${run}"})
    OmegaConf.resolve(config)
    restore(config)
    expand_home(config, PLACES)
    assert other == "seed=1" and config.run == config["copy"] == path


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("a,b", "a,b"),
        ("[a,'b c']", ["a", "b c"]),
        ("{a: 1, b: 2.0}", {"a": 1, "b": 2.0}),
        ("[a", "[a"),
        ("{}", {}),
        ("['~/a',b]", ["HOME/a", "b"]),
        ("~/a", "HOME/a"),
        ("~", "HOME"),
        ("~/a//b/", "HOME/a//b/"),
        ("~nobody_of_this_name/a", "~nobody_of_this_name/a"),
        ("a/~/b", "a/~/b"),
        ("null", None),
        ("./null", "./null"),
    ],
)
def test_a_key_of_several_places_is_one_path_or_several(
    typed: str, taken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "HOME")
    paths = compose("shard_merge", [f"paths={typed}", "out=x"]).paths
    assert (OmegaConf.to_container(paths) if OmegaConf.is_config(paths) else paths) == taken


def test_datasets_are_such_a_key() -> None:
    shards = [compose("pretrain", [f"data.shards={typed}"]).data.shards for typed in ("a,b", "{a: 1, b: 2.0}")]
    assert shards == ["a,b", {"a": 1, "b": 2.0}]


def test_the_home_folder_of_places_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.create({"run": "~/run", "shards": {"~/a": 2}, "seed": "~/x"})
    expand_home(config, PLACES)
    assert config == {"run": "/home/me/run", "shards": {"/home/me/a": 2}, "seed": "~/x"}


def test_the_last_of_two_counts() -> None:
    config = compose("pretrain", ["data.shards=a b", "data.shards=[x,y]", "run=null", "run=a (b"])
    assert (list(config.data.shards), config.run) == (["x", "y"], "a (b")


def test_what_depends_on_a_path_follows_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ncheckpoint:\n  folder: ${run}/safe\n")
    config = compose("pretrain", ["--config-dir", str(tmp_path), "experiment=mine", "data.shards=x", "run=a (1)"])
    assert config.checkpoint.folder == "a (1)/safe"


def test_a_recipes_source_says_which_of_its_arguments_are_places(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    theirs = f"_target_: {Source.__module__}.Source\nname: mine\nlicence: none\npictures: ???\nnote: ''\n"
    (tmp_path / "recipe" / "mine.yaml").write_text(theirs)
    words = ["--config-dir", str(tmp_path), "recipe=mine", "out=a,b", "recipe.pictures=Bilder (2024)/äü, a"]
    config = compose("shard", [*words, "+recipe.table=$x=[1].csv", "recipe.note='x y'"])
    assert (config.out, config.recipe.pictures, config.recipe.table) == ("a,b", "Bilder (2024)/äü, a", "$x=[1].csv")
    assert config.recipe.note == "x y"  # no place: Hydra's grammar
    for text in ("a (b", "a, b", "© 2024; it's", "~/x (1)"):  # text that the grammar does not accept is taken as typed
        assert compose("shard", [*words, f"recipe.note={text}"]).recipe.note == text
    with pytest.raises(UserError, match=r"recipe\.note='a: not valid in Hydra's grammar .* quote text: recipe\."):
        compose("shard", [*words, "recipe.note='a"])


def test_of_another_class_its_own_arguments_count(tmp_path: Path) -> None:
    words = ["out=x", "recipe=phantom_cxr", f"recipe._target_={Source.__module__}.Source", "+recipe.pictures=a (b"]
    assert compose("shard", words).recipe.pictures == "a (b"
