"""Paths on a command line: in Hydra's grammar, with the home folder of keys that hold places."""

import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.base.config.overrides import expand_home
from dira_scale.base.config.schema import PathKind, PathStr
from dira_scale.base.errors import UserError

PLACES = {"run": PathKind.ONE, "shards": PathKind.SEVERAL}


class Source:
    """The source of a recipe of one's own."""

    def __init__(self, pictures: PathStr, note: str = "", table: PathStr | None = None) -> None: ...


@pytest.mark.parametrize(
    "path", ["/data/a b", "s3://bucket/a-b", "C:\\x", "../a.b", "'/data/Bilder (2024)/äü, it\\'s'"]
)
def test_a_path_is_text_in_hydras_grammar(path: str) -> None:
    config = compose("export", [f"run={path}"])
    assert config.run == (path if path[0] != "'" else "/data/Bilder (2024)/äü, it's")


@pytest.mark.parametrize("path", ["/data/Bilder (2024)", "a,b", "é", "it's", "[x"])
def test_of_text_that_the_grammar_does_not_take_the_message_says_what_to_type(path: str) -> None:
    with pytest.raises(UserError) as caught:
        compose("export", [f"run={path}"])
    message, _, typed = str(caught.value).rpartition("type text in quotes of its own: ")
    assert message.startswith(f"run={path}: ")
    assert compose("export", shlex.split(typed)).run == path


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ("a b", "a b"),
        ("[a,'b c']", ["a", "b c"]),
        ("{a: 1, b: 2.0}", {"a": 1, "b": 2.0}),
        ("['~/a',b]", ["HOME/a", "b"]),
        ("'~/a'", "HOME/a"),
        ("~/a b, c", "HOME/a b, c"),  # as it is typed after a dotted key, where the shell leaves it
        ("'~'", "HOME"),
        ("'~/a//b/'", "HOME/a//b/"),
        ("'~nobody_of_this_name/a'", "~nobody_of_this_name/a"),
        ("null", None),
    ],
)
def test_a_key_of_several_places_is_one_path_or_several(
    typed: str, taken: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "HOME")
    paths = compose("shard_merge", [f"paths={typed}", "out=x"]).paths
    assert (OmegaConf.to_container(paths) if OmegaConf.is_config(paths) else paths) == taken


def test_the_home_folder_of_places_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.create({"run": "~/run", "shards": {"~/a": 2}, "seed": "~/x"})
    expand_home(config, PLACES)
    assert config == {"run": "/home/me/run", "shards": {"/home/me/a": 2}, "seed": "~/x"}


def test_what_depends_on_a_path_follows_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ncheckpoint:\n  folder: ${run}/safe\n")
    config = compose("pretrain", ["--config-dir", str(tmp_path), "experiment=mine", "data.shards=x", "run=a 1"])
    assert config.checkpoint.folder == "a 1/safe"


def test_a_recipes_source_says_which_of_its_arguments_are_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "recipe").mkdir()
    theirs = f"_target_: {Source.__module__}.Source\nname: mine\nlicence: none\npictures: ???\nnote: ''\n"
    (tmp_path / "recipe" / "mine.yaml").write_text(theirs)
    words = ["recipe.pictures='~/a'", "+recipe.table='~/b'", "recipe.note='~/c'"]
    config = compose("shard", ["--config-dir", str(tmp_path), "recipe=mine", "out=x", *words])
    assert (config.recipe.pictures, config.recipe.table) == ("/home/me/a", "/home/me/b")
    assert config.recipe.note == "~/c"  # no place
